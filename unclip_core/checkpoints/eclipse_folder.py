"""ECLIPSE's priors (Patel et al. 2024), without torch: a diffusers PriorTransformer without time, alone in its folder.

Recognised by its config.json: three additional tokens, where the prior of a diffusion has four. It has no CLIP and no
decoder: those are its host's, Karlo or Kandinsky 2.2, wherever that is installed. Experimental: nobody here has seen a
published file, so its sizes are inferred from the number of parameters that its authors name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ..config import STAGES
from ..presets import ECLIPSE_GUIDANCE, ECLIPSE_KANDINSKY_2_2, ECLIPSE_KARLO, KANDINSKY_2_2, KARLO
from .diffusers_configs import expect, prior_sizes
from .diffusers_folder import read_licence
from .header import CheckpointError, StageFile, guarded, read_json
from .kandinsky_folder import Joined
from .weight_sets import find_weights

LAYOUT = "eclipse"
# In its file, and not applied to what it gives.
UNUSED = ("clip_mean", "clip_std")
# What the published repositories are called here.
_NAMES = {"ECLIPSE_Karlo_Prior": ECLIPSE_KARLO.name, "ECLIPSE_KandinskyV22_Prior": ECLIPSE_KANDINSKY_2_2.name}
# The published priors, each with its host.
_HOSTS = ((ECLIPSE_KARLO, KARLO), (ECLIPSE_KANDINSKY_2_2, KANDINSKY_2_2))


class Host(Protocol):
    """An installed stack."""

    name: str
    folder: Path
    stages: Mapping[str, StageFile]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class LonePrior:
    """A prior without a CLIP, or what is wrong with it. Its stage's clip_id is its host's to give."""

    name: str
    folder: Path
    stage: StageFile | None = None
    problems: tuple[str, ...] = ()


def read_prior(folder: Path, name: str) -> LonePrior | None:
    """The ECLIPSE prior in `folder`, or None if it holds none. Whatever is wrong with it is in its problems."""
    path = folder / "config.json"
    try:
        with guarded(folder):
            config = read_json(path) if path.is_file() else {}
    except CheckpointError:  # anybody's folder
        return None
    if config.get("_class_name") != "PriorTransformer" or config.get("additional_embeddings") != 3:
        return None
    name = _NAMES.get(name, name)
    try:
        with guarded(folder):
            return LonePrior(name, folder, _stage(folder, path, config))
    except CheckpointError as error:
        return LonePrior(name, folder, problems=(str(error),))


def _stage(folder: Path, path: Path, config: dict) -> StageFile:
    expect(path, config, added_emb_type="prd", encoder_hid_proj_type="linear")
    sizes = prior_sizes(path, config)
    found = replace(ECLIPSE_KARLO.prior, clip_id="", **sizes, prior_id="")
    metadata = {"modelspec.license": licence} if (licence := read_licence(folder)) else {}
    return StageFile(folder, "prior", found, metadata, LAYOUT, {"prior": find_weights(folder)})


def join(prior: LonePrior, hosts: Iterable[Host]) -> Joined:
    """The stack that a prior makes with its host's CLIP, decoder and upsamplers.

    The published sizes go with the decoder that they were published for, others with any whose CLIP has that width.
    Without a host it is a stack with a problem, which names the command that gets it.
    """
    if prior.stage is None:
        return Joined(prior.name, prior.folder, {}, prior.problems)
    config = prior.stage.config
    published = next(((own, host) for own, host in _HOSTS if _same_sizes(own.prior, config)), None)
    fitting = [host for host in hosts if _fits(host, config, published and published[1].decoder.decoder_id)]
    if not fitting:
        return Joined(prior.name, prior.folder, {"prior": prior.stage}, (_missing_host(prior, published),))
    named = published[1].name if published else ""
    host = max(fitting, key=lambda host: _preference(host, named, prior.folder.parent))
    clip, decoder = host.stages["clip"], host.stages["decoder"]
    sizes = f"one-pass-{config.width}x{config.depth}"
    prior_id = published[0].prior.prior_id if published else f"{clip.config.clip_id}/{sizes}"
    sampling = replace(decoder.config.sampling, guidance_scale=ECLIPSE_GUIDANCE)
    stages = {
        **host.stages,
        "prior": replace(prior.stage, config=replace(config, clip_id=clip.config.clip_id, prior_id=prior_id)),
        "decoder": replace(decoder, config=replace(decoder.config, sampling=sampling)),
    }
    ordered = {stage: stages[stage] for stage in STAGES if stage in stages and stage != "ar_prior"}
    return Joined(prior.name, prior.folder, ordered, ())


def _same_sizes(known: object, found: object) -> bool:
    return replace(known, clip_id="", prior_id="") == found


def _fits(host: Host, config: object, decoder_id: str | None) -> bool:
    """Whether the prior speaks the host's CLIP. decoder_id: the decoder that it must have, None for any."""
    clip, decoder = host.stages.get("clip"), host.stages.get("decoder")
    if clip is None or decoder is None or host.problems or "text" not in clip.config.towers:
        return False
    spoken = (clip.config.embed_dim, clip.config.text_width, clip.config.context_length)
    return spoken == (config.clip_dim, config.text_width, config.context_length) and (
        decoder_id in (None, decoder.config.decoder_id)
    )


def _preference(host: Host, named: str, folder: Path) -> tuple[bool, ...]:
    """The published host before others, decoders that need no mask or hint before those, neighbours before others."""
    plain = host.stages["decoder"].config.extra_input == "none"
    return host.name == named, plain, host.folder.parent == folder


def _missing_host(prior: LonePrior, published: tuple | None) -> str:
    config, needs = prior.stage.config, "an ECLIPSE prior has no CLIP and no decoder of its own"
    if published is None:
        return (
            f"{prior.folder}: {needs}, and no model whose CLIP has {config.clip_dim} dimensions and "
            f"{config.context_length} tokens is installed; put one beside it"
        )
    host = published[1].name
    return f"{prior.folder}: {needs}; they are {host}'s, which is not installed: get it with `unclip pull {host}`"
