"""Puts a training run together: data, frozen CLIP, the stage's task, where it is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..clip.model import Clip
from ..clip.pca import fit_pca
from ..config import STAGES, UPSAMPLERS, UpsamplerConfig
from ..runtime.estimates import free_bytes
from .clips import open_clip_of
from .data import Data, Tick
from .embeddings import clip_fingerprint, image_embeddings
from .frozen import frozen_parts, network_state, with_own_text
from .initial import why_not_trained
from .loop import LoopOptions, Progress, Stopped, Task, train
from .lora import LORA_TASKS, LoraSettings
from .memory import CONTEXT, COUNTED, GB, estimate
from .passing import Passed, check_through, open_through, pass_data
from .plan import SPEAKERS, Plan, components
from .precision import candidates
from .recipes import Recipe
from .sources.opening import open_data
from .sources.pairs import EmbeddingPairs
from .sources.pictures import PictureData
from .task_ar_prior import KEPT_VARIANCE, ARPriorTask
from .task_clip import ClipTask
from .task_decoder import DecoderTask
from .task_prior import PriorTask
from .task_upsampler import UpsamplerTask
from .world import this_world

EMBEDDING_TASKS = {"prior": PriorTask, "decoder": DecoderTask, "ar_prior": ARPriorTask}  # these read a frozen CLIP
SHOWN = 3  # of the files that are skipped
CAPTIONED = ("clip", "prior", "ar_prior")  # these learn nothing from a row without a caption


@dataclass(frozen=True)
class RunOptions:
    """The options of one stage's run, besides its plan.

    clip: a file or an installed model, None: see `open_clip_of`. lora: train side branches, not the weights. folders:
    the host's model folders. progress: called during passes over the data. note: called with what of the data is left
    out, and the memory that a prior or decoder will need. stop: see `train`. through: models or files of the stages
    that make an upsampler's inputs, see `passing`.
    """

    stage: str
    run: Path
    data: str = "storybook:"
    cache: Path = Path("data")  # for what is made of the data: drawn scenes, small pictures, embeddings
    clip: str | None = None
    lora: LoraSettings | None = None
    folders: tuple[Path, ...] = ()
    loop: LoopOptions = field(default_factory=LoopOptions)
    progress: Tick | None = None
    note: Callable[[str], None] | None = None
    stop: Callable[[], bool] = lambda: False
    through: tuple[str, ...] = ()


def start(options: RunOptions, plan: Plan) -> Iterator[Progress]:
    """Begin or resume a run of one stage. Raises ValueError for what cannot be trained, before any work."""
    check_trainable(options.stage, plan)
    if options.lora is not None:
        check_lora(options.stage, plan)
    if options.through:
        if options.stage not in UPSAMPLERS:
            raise ValueError(f"--through makes inputs of upsamplers, not of the {options.stage}; leave it out")
        check_through(open_through(options.through, options.folders), plan.config(options.stage))
    recipe = plan.recipe(options.stage)
    clip = None
    if options.stage in SPEAKERS:
        clip = open_clip_of(options.clip, plan, options.folders, options.loop.device)
        plan = plan.with_clip(clip.config)
    with this_world().first_alone():
        data = open_source(options, recipe)
    if options.stage == "clip":
        plan = plan.with_words_of(data)
    return run_stage(options, plan, data, clip)


def open_source(options: RunOptions, recipe: Recipe) -> Data:
    """The data that was asked for; what of it cannot be read is noted."""
    data = open_data(
        options.data,
        options.cache,
        scenes=recipe.pictures,
        seed=recipe.seed,
        swaps=recipe.swaps,
        chinese=recipe.chinese,
        progress=options.progress,
    )
    skipped = data.skipped() if isinstance(data, PictureData | EmbeddingPairs) else []
    if skipped and options.note is not None:
        shown = "; ".join(f"{name}: {reason}" for name, reason in skipped[:SHOWN])
        options.note(f"data: {len(data)} rows, {len(skipped)} skipped ({shown}); `unclip data` lists all")
    return data


def check_trainable(stage: str, plan: Plan) -> None:
    """Raises ValueError for a stage that there is not, or that is not trained here."""
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r} is unknown; choose one of {', '.join(STAGES)}")
    config = plan.config(stage)
    if stage == "clip" and config.vision is None:
        raise ValueError(f"preset {plan.preset}: CLIP {config.clip_id} is loaded, not trained here; use open_clip")
    if reason := why_not_trained(config):
        raise ValueError(f"preset {plan.preset}, {stage}: {reason}, which is not trained here; choose another preset")


def check_lora(stage: str, plan: Plan) -> None:
    """Raises ValueError for a stage that has no LoRA, and where nothing says of which weights it is to be."""
    if stage not in LORA_TASKS:
        raise ValueError(f"--lora: {stage} has none; choose one of {', '.join(LORA_TASKS)}")
    if plan.initial is None:
        raise ValueError(f"--lora needs the weights that it is of: --init MODEL:{stage}, as storybook:{stage}")
    if stage in plan.given:
        raise ValueError(f"--lora is of weights as they are; leave [{stage}] out of the --config")


def run_stage(options: RunOptions, plan: Plan, data: Data, clip: Clip | None) -> Iterator[Progress]:
    """Train one stage on `data`. clip: the frozen one that it listens to."""
    stage, config = options.stage, plan.config(options.stage)
    recipe = plan.recipe(stage)
    rows = rows_for(stage, config, data)
    if len(rows) < len(data) and options.note is not None:
        why = "no caption" if stage in CAPTIONED else f"fewer than {config.high_size} px on the short side"
        options.note(f"{stage} learns from {len(rows)} of {len(data)} rows; the others have {why}")
    with this_world().first_alone():
        task = make_task(options, plan, data, recipe, clip)
        if side := getattr(task, "picture_side", 0):
            data.pictures([0], side)  # made here once: neither every process nor a worker can make them in time
    init = None
    if plan.initial and options.lora is None:
        read = plan.initial.read
        initial = dataclasses.replace(plan.initial, read=lambda: network_state(plan.initial.config, read()))
        init = initial.state_for(task.config, lambda: task.build().state_dict())
    if stage in COUNTED and options.note is not None:
        options.note(f"memory: {memory_needed(options, task.config, recipe, clip)}")
    identity: dict[str, Any] = {
        "stage": stage,
        "preset": plan.preset,
        "data": data.identity,
        "clip": f"{clip.clip_id} {clip_fingerprint(clip)}" if stage in SPEAKERS else None,
        "config": dataclasses.asdict(task.config),
        **({} if options.lora is None else {"lora": options.lora.described()}),
        **({"through": task.passed and task.passed.key} if stage in UPSAMPLERS else {}),
    }
    if stage in SPEAKERS and torch.device(options.loop.device).type != "cpu":
        clip.placed.unload()  # what has seen the pictures makes room; it comes back where it is used
    return train(task, recipe, options.run, rows, init=init, identity=identity, options=options.loop, stop=options.stop)


def make_task(options: RunOptions, plan: Plan, data: Data, recipe: Recipe, clip: Clip | None) -> Task:
    """The stage's task; priors and decoder bring the frozen CLIP and its embeddings of the data."""
    stage, config = options.stage, plan.config(options.stage)
    if stage == "clip":
        return ClipTask(config, data, recipe)
    if stage not in SPEAKERS:
        return UpsamplerTask(stage, config, data, recipe, _passed(options, config, data, recipe))
    embeddings = image_embeddings(clip, data, options.cache / "embeddings", progress=options.progress)
    if stage == "ar_prior" and plan.initial is None and "components" not in plan.given.get(stage, {}):
        needed = fit_pca(embeddings, config.clip_id).needed(KEPT_VARIANCE)
        config = dataclasses.replace(config, **components(config, max(config.components, needed)))
    rest = (data, clip, embeddings, recipe)
    if stage == "decoder":
        frozen = frozen_parts(config, plan.initial.read if plan.initial else None, clip)
        tokenizer = plan.initial.tokenizer if plan.initial else None
        rest += (with_own_text(frozen, config, torch.device(options.loop.device), tokenizer),)
    if options.lora is None:
        return EMBEDDING_TASKS[stage](config, *rest)
    config, settings = plan.initial.config, options.lora
    return LORA_TASKS[stage](
        config, *rest, weights=lambda: network_state(config, plan.initial.read()), settings=settings
    )


def _passed(options: RunOptions, config: UpsamplerConfig, data: Data, recipe: Recipe) -> Passed | None:
    """The inputs that the stages of --through make, if any are named."""
    if not options.through:
        return None

    def stop() -> None:
        if options.stop():
            raise Stopped(f"train {options.stage}: stopped while pictures pass through; the same command goes on")

    entry, rows = open_through(options.through, options.folders), rows_for(options.stage, config, data)
    device = options.loop.device
    return pass_data(
        entry, config, data, rows, recipe, options.cache, device=device, progress=options.progress, stop=stop
    )


def memory_needed(options: RunOptions, config: Any, recipe: Recipe, clip: Clip) -> str:
    """What a run of a prior or decoder takes of its device, and on a GPU that has less of it what would take less."""
    device = torch.device(options.loop.device)
    dtype = options.loop.dtype if options.loop.dtype != "auto" else candidates(device)[-1]
    given = {
        "lora": options.lora,
        "dtype": dtype,
        "clip_dtype": clip.placed.dtype,
        "towers_apart": clip.apart,
        "fused": device.type != "cpu",
    }
    rows = recipe.micro_batch or recipe.batch
    needed = estimate(config, clip.config, rows, save_memory=options.loop.save_memory, **given)
    if device.type != "cuda" or needed.total + CONTEXT <= (free := free_bytes(device)):
        return str(needed)
    less = estimate(config, clip.config, 1, save_memory=True, **given)
    return f"{needed}, but {device} has {free / GB:.1f} GB free; --save-memory --micro-batch 1 takes {less}"


def _where_captions_go(data: Data) -> str:
    """What gives the rows of this kind of source captions."""
    if isinstance(data, EmbeddingPairs):
        return "put clip-retrieval's metadata_0.parquet or .jsonl beside img_emb_0.npy, in metadata/"
    return "put .txt files beside the pictures"


def rows_for(stage: str, config: Any, data: Data) -> list[int]:
    """The rows that a stage learns from. Raises ValueError where there are none, with the reason."""
    rows = list(range(len(data)))
    if isinstance(data, EmbeddingPairs) and stage not in ("prior", "ar_prior"):
        data.pictures([])  # there are none, which it says
    if stage in CAPTIONED and isinstance(data, PictureData | EmbeddingPairs):
        rows = [row for row in rows if data.all_captions(row)]
        if not rows:
            raise ValueError(f"train {stage}: no row has a caption; {_where_captions_go(data)}")
    if stage not in (*SPEAKERS, "clip") and isinstance(data, PictureData):
        rows = [row for row in rows if min(data.size(row)) >= config.high_size]
        if not rows:
            raise ValueError(
                f"train {stage}: none of the {len(data)} pictures has {config.high_size} px on its short side; give "
                f"larger ones, or take this stage from another model (--take MODEL:{stage.replace('_', '-')})"
            )
    return rows
