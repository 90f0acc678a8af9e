"""From a stage on disk, of whatever layout, to the state dict of its network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from . import (
    autoencoder_keys,
    diffusers_folder,
    diffusers_keys,
    eclipse_folder,
    kandinsky_folder,
    kandinsky_keys,
    stable_unclip_folder,
    stable_unclip_keys,
)
from .header import SHORT_NAMES, StageFile
from .keys import Rule, assemble, is_read
from .tensors import Source, open_weights

# OpenAI's CLIPs end training at this cap, and transformers' separate towers do not carry it.
OPENAI_LOGIT_SCALE = math.log(100.0)
# By layout: from a stage's name to the rule of each of its tensors.
_RULES = {
    diffusers_folder.LAYOUT: diffusers_keys.rule_of,
    kandinsky_folder.LAYOUT: kandinsky_keys.rule_of,
    eclipse_folder.LAYOUT: diffusers_keys.rule_of,
}
_NAMES = {torch.float32: SHORT_NAMES["F32"], torch.bfloat16: SHORT_NAMES["BF16"], torch.float16: SHORT_NAMES["F16"]}


def read_state(
    found: StageFile,
    network: nn.Module,
    *,
    dtype: torch.dtype | None = None,
    layout: torch.memory_format = torch.contiguous_format,
    part: str = "",
    without: str = "",
    check: Callable[[], None] | None = None,
    keep_halves: bool = False,
) -> dict[str, Tensor]:
    """The state dict of `network` (on the meta device will do), which must be the one that `found.config` describes.

    dtype, layout, part, without, check, keep_halves: see `assemble`; where a folder has several variants, the one
    stored as `dtype` is read. Raises CheckpointError naming file, key, expected and found; then nothing has been read.
    """
    rule_of, ignored, given = rules_of(found)
    opened = found.weights(_NAMES.get(dtype)).items()
    parts = {part: tensors_of(found, part, open_weights(weight_set)) for part, weight_set in opened}
    options = {"ignored": ignored, "given": given, "dtype": dtype, "memory_format": layout, "keep_halves": keep_halves}
    state = assemble(network, rule_of, parts, str(found.path), part=part, without=without, check=check, **options)
    prefix = f"{part}." if part else ""
    return state | {name.removeprefix(prefix): value for name, value in given.items() if is_read(name, part, without)}


def tensors_of(found: StageFile, part: str, sources: Mapping[str, Source]) -> Mapping[str, Source]:
    """Those of a part's tensors that the stage is made of, by the names that its rules use."""
    if found.layout == kandinsky_folder.LAYOUT and part == autoencoder_keys.PART:
        return {autoencoder_keys.todays_name(name): source for name, source in sources.items()}
    if found.layout != stable_unclip_folder.LAYOUT:
        return sources
    named = {stable_unclip_keys.taken(found, part, name): source for name, source in sources.items()}
    return {name: source for name, source in named.items() if name is not None}


def rules_of(found: StageFile) -> tuple[Callable[[str], Rule], tuple[str, ...], dict[str, Tensor]]:
    """(rule of each of our names, endings of foreign names without weights, tensors that the layout does not carry)."""
    if found.layout == stable_unclip_folder.LAYOUT:
        return stable_unclip_keys.rules_of(found), diffusers_keys.IGNORED, _given_by_stable_unclip(found)
    if found.layout not in _RULES:
        return lambda name: Rule(found.stage, (name,)), (), {}
    given = {"logit_scale": torch.tensor(OPENAI_LOGIT_SCALE)} if found.stage == "clip" else {}
    unused = eclipse_folder.UNUSED if found.layout == eclipse_folder.LAYOUT else ()
    return _RULES[found.layout](found.stage), (*kandinsky_keys.IGNORED, *unused), given


def _given_by_stable_unclip(found: StageFile) -> dict[str, Tensor]:
    if found.stage == "clip":
        return {"logit_scale": torch.tensor(OPENAI_LOGIT_SCALE)}
    if found.stage == "decoder" and stable_unclip_keys.FILE in found.parts:
        dim = found.config.clip_dim  # the files carry no statistics
        return {"normalizer.mean": torch.zeros(dim), "normalizer.std": torch.ones(dim)}
    return {}
