"""A whole stack from one source of pictures: stage after stage, each taken up where it was, all put where they load.

A run lies in `runs/NAME/STAGE`, the stack in a model folder under NAME. A stage that is there already, put by hand or
by an earlier call, is used as it is and not trained.
"""

from __future__ import annotations

import filecmp
import random
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.catalog import ANALYTIC, PCA, find, read_stack, table_name
from ..checkpoints.native import save_stage
from ..checkpoints.tables import save_basis, save_noise_powers
from ..clip.model import Clip
from ..clip.pca import fit_pca
from ..disk import whole_file
from ..stack import Stack, load_stack
from ..stages import finish
from ..types import Embedding
from .clips import load_clip, open_clip_of
from .data import Data
from .embeddings import embed_rows, image_embeddings
from .fit_analytic import fit_noise_powers
from .loop import Progress
from .plan import SPEAKERS, Plan
from .run_folder import RunFolder
from .sources.pairs import EmbeddingPairs
from .start import RunOptions, check_trainable, open_source, rows_for, run_stage
from .validation import some_rows
from .world import this_world

CASCADE = ("clip", "prior", "decoder", "upsampler_256", "upsampler_1024")  # what text to image runs through
ANALYTIC_PAIRS = 128


@dataclass(frozen=True)
class Event:
    """What happened: a stage is "trained" (progress says how far), "there" already, "left out" (note says why) or
    "installed"; so are the tables "pca" and "analytic"."""

    stage: str
    what: str
    note: str = ""
    progress: Progress | None = None


def take(name: str, stage: str, target: Path, folders: Collection[Path]) -> Path:
    """Copy a stage of an installed model into the stack `target`. Raises ValueError where it has none, or where it is
    not a file of ours, or another one is in its place."""
    entry = find(name, folders)
    if stage not in entry.stages:
        raise ValueError(f"--take {name}:{stage}: {name} has no {stage}; it has {', '.join(entry.stages)}")
    source = Path(entry.stages[stage].path)
    if entry.layout != "native":
        raise ValueError(f"--take {name}:{stage}: {name} is a {entry.layout} folder; `unclip convert` it first")
    place = target / f"{stage}.safetensors"
    if place.exists() and not filecmp.cmp(place, source, shallow=False):
        raise ValueError(f"--take {name}:{stage}: {place} is another one; remove it first")
    return place if place.exists() else _installed(source, place)


def train_all(
    options: RunOptions, plan: Plan, name: str, target: Path, stages: Collection[str] = CASCADE
) -> Iterator[Event]:
    """Train what `target` lacks of the `stages`, in their order, with the PCA basis of its CLIP, and put it there.

    options: its `stage` is not looked at, its `run` is the folder of all runs of this stack. Raises ValueError before
    any work for a stage that cannot be trained at all, or a `target` whose stages do not speak its CLIP; pictures that
    are too small for an upsampler leave it out.
    """
    have = read_stack(target) if target.is_dir() else None
    if have is not None and have.problems:
        raise ValueError(f"--name {name}: {'; '.join(have.problems)}")
    there = dict(have.stages) if have else {}
    first = this_world().first
    for stage in stages:
        if stage not in there and not (stage == "clip" and plan.config("clip").vision is None):
            check_trainable(stage, plan)
            plan.recipe(stage)
    _check_one_clip(name, there)
    with this_world().first_alone():
        data = open_source(options, plan.recipe(next(stage for stage in stages if stage in plan.recipes)))
    plan, clip = yield from _clip(options, plan, name, target, there, data, stages)
    if first:
        options.run.mkdir(parents=True, exist_ok=True)
        (options.run / "config.toml").write_text(plan.to_toml(), encoding="utf-8")
    for stage in [stage for stage in stages if stage != "clip"]:
        if stage in there and not _unfinished(options, stage, plan):
            yield Event(stage, "there")
            continue
        try:
            rows_for(stage, plan.config(stage), data)
        except ValueError as error:
            if stage in SPEAKERS and not isinstance(data, EmbeddingPairs):
                raise
            yield Event(stage, "left out", str(error))
            continue
        yield from _trained(options, plan, stage, target, data, clip)
    if first:
        yield from _tables(options, plan, name, target, data, clip)


def _check_one_clip(name: str, there: Mapping) -> None:
    """Raises ValueError for stages of which one does not speak the CLIP that lies beside it."""
    if "clip" in there:
        clip_id = there["clip"].config.clip_id
        for stage in SPEAKERS:
            if stage in there and there[stage].config.clip_id != clip_id:
                raise ValueError(
                    f"--name {name}: its {stage} ({there[stage].path}) speaks {there[stage].config.clip_id}, its CLIP "
                    f"is {clip_id}; remove one of them"
                )


def _clip(
    options: RunOptions, plan: Plan, name: str, target: Path, there: Mapping, data: Data, stages: Collection[str]
) -> Iterator[Event]:
    """The stack's CLIP, trained, taken, or there; returns the plan that is sized for it, and the handle."""
    own = plan.config("clip").vision is not None
    if "clip" in there and not (own and _unfinished(options, "clip", plan)):
        yield Event("clip", "there")
    elif options.clip is not None or not own or "clip" not in stages:
        clip = open_clip_of(options.clip, plan, options.folders, options.loop.device)
        if this_world().first:
            # Read anew: of networks that run, weights may be anywhere. A large CLIP's towers are two networks.
            towers = {clip.text_placed: None, clip.placed: None}
            weights = {name: value for placed in towers for name, value in placed.in_memory().state_dict().items()}
            save_stage(target / "clip.safetensors", weights, "clip", clip.config, {"taken": "as it is"})
        yield Event("clip", "installed", f"{clip.clip_id}, as it is")
    else:
        plan = plan.with_words_of(data)
        yield from _trained(options, plan, "clip", target, data, None)
    with this_world().first_alone():
        found = read_stack(target).stages["clip"]
    clip = load_clip(found, options.loop.device)
    return plan.with_clip(clip.config), clip


def _trained(
    options: RunOptions, plan: Plan, stage: str, target: Path, data: Data, clip: Clip | None
) -> Iterator[Event]:
    run = replace(options, stage=stage, run=options.run / stage)
    for progress in run_stage(run, plan, data, clip):
        yield Event(stage, "trained", progress=progress)
    if this_world().first:
        place = _installed(run.run / f"{stage}.safetensors", target / f"{stage}.safetensors")
        yield Event(stage, "installed", str(place))


def _unfinished(options: RunOptions, stage: str, plan: Plan) -> bool:
    """Whether an installed stage is one of ours, which more steps are asked of now."""
    folder = options.run / stage
    done = RunFolder(folder).finished() if folder.exists() else None
    return done is not None and done["recipe"]["steps"] < plan.recipe(stage).steps


def _installed(source: Path, place: Path) -> Path:
    """A copy that appears whole or not at all."""
    with whole_file(place, durable=True, size=source.stat().st_size) as temporary:
        shutil.copyfile(source, temporary)
    return place


def _tables(options: RunOptions, plan: Plan, name: str, target: Path, data: Data, clip: Clip) -> Iterator[Event]:
    """The PCA basis of the CLIP on this data, and what Analytic-DPM needs of a prior that samples by it."""
    basis = target / table_name(name, PCA)
    if basis.exists():
        yield Event(PCA, "there")
    else:
        vectors = image_embeddings(clip, data, options.cache / "embeddings", progress=options.progress)
        save_basis(basis, fit_pca(vectors, clip.clip_id), {"data": options.data, "pictures": str(len(vectors))})
        yield Event(PCA, "installed", str(basis))
    prior = plan.stack.prior
    powers = target / table_name(name, ANALYTIC)
    if prior is None or prior.sampling.sampler != "analytic_ddpm" or powers.exists():
        return
    stack = load_stack(read_stack(target), "fp32", options.loop.device)
    save_noise_powers(powers, _noise_powers(options, stack, data), prior.prior_id, {"data": options.data})
    yield Event(ANALYTIC, "installed", str(powers))


def _noise_powers(options: RunOptions, stack: Stack, data: Data) -> Tensor:
    """See fit_noise_powers, on rows spread over the data."""
    rows = some_rows(range(len(data)), min(ANALYTIC_PAIRS, len(data)))
    with torch.inference_mode():
        text = stack.clip.encode_text(data.captions(rows, random.Random(0)))
        image = Embedding(embed_rows(stack.clip, data, rows), stack.clip.clip_id, "image")
        tell = options.progress or (lambda what, done, total: None)
        return finish(fit_noise_powers(stack.prior, text, image), lambda step: tell("measure the prior's noise", *step))
