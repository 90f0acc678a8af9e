"""Other programs' names of LoRA tensors -> the layers they belong to, by diffusers' names. No torch.

Known are peft's (`to_q.lora_A.weight`, as diffusers writes today), diffusers' own (`to_q.lora.down.weight`) and its
first ones (`processor.to_q_lora.down.weight`, of the Kandinsky 2.2 training scripts), with or without the network's
name in front.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .header import CheckpointError

_PREFIX = re.compile(r"(?:base_model\.model\.)?(?:(?:unet|prior)\.)?")
_PEFT = re.compile(r"(?P<layer>.+)\.lora_(?P<part>[AB])(?:\.\w+)?\.weight")
_OWN = re.compile(r"(?P<layer>.+)\.lora(?:\.|_)(?P<part>down|up)\.weight")
_PROCESSOR = re.compile(r"(?P<place>.+?)(?:\.processor)?\.(?P<layer>\w+)_lora\.(?P<part>down|up)\.weight")
_ALPHA = re.compile(r"(?P<layer>.+?)(?:\.lora)?\.alpha")

# Layers by which a network is known: diffusers' PriorTransformer, and its UNet of Karlo's and Kandinsky's decoders.
# Stable Diffusion's and other transformers' layers have other names.
_PRIOR = re.compile(r"transformer_blocks\.\d+\.(attn1\.(to_[qkv]|to_out\.0)|ff\.net\.(0\.proj|2))")
_DECODER = re.compile(
    r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.attentions\.\d+\.(to_[qkv]|add_[kv]_proj|to_out\.0)"
)


@dataclass
class Pair:
    """The names of one layer's tensors: down (rank, in), up (out, rank), and maybe the scale's numerator."""

    down: str = ""
    up: str = ""
    alpha: str = ""


def foreign_layers(names: Iterable[str]) -> dict[str, dict[str, Pair]]:
    """{stage: {diffusers' name of a layer: its tensors}} of a file with these tensors.

    Raises CheckpointError, without the file's name, for a tensor that belongs to no LoRA of an unCLIP's network.
    """
    stages: dict[str, dict[str, Pair]] = {}
    for name in names:
        layer, part = _split(_PREFIX.sub("", name, count=1))
        stage = "prior" if _PRIOR.fullmatch(layer) else "decoder" if _DECODER.fullmatch(layer) else ""
        if not stage:
            raise CheckpointError(
                f"{name} is no low-rank weight of an unCLIP's attention; only LoRAs of the attention layers of Karlo "
                "and Kandinsky 2 are read"
            )
        setattr(stages.setdefault(stage, {}).setdefault(layer, Pair()), part, name)
    for layers in stages.values():
        for layer, pair in layers.items():
            if not pair.down or not pair.up:
                raise CheckpointError(f"{layer} has only one of its two matrices; the file is damaged")
    return stages


def _split(name: str) -> tuple[str, str]:
    """(layer, field of Pair); ("", "") for a name of no known form."""
    if found := _PEFT.fullmatch(name):
        return found["layer"], "down" if found["part"] == "A" else "up"
    if found := _OWN.fullmatch(name):
        return found["layer"], found["part"]
    if found := _PROCESSOR.fullmatch(name):
        layer = "to_out.0" if found["layer"] == "to_out" else found["layer"]
        return f"{found['place']}.{layer}", found["part"]
    if found := _ALPHA.fullmatch(name):
        return found["layer"], "alpha"
    return "", ""


def metadata_scale(metadata: Mapping[str, str], layer: str, rank: int) -> float:
    """The factor on up(down(x)) that peft's settings in a file's metadata give a layer; 1 where there are none.

    Raises CheckpointError, without the file's name, for settings of another method (DoRA).
    """
    try:
        settings = json.loads(metadata.get("lora_adapter_metadata") or "{}")
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise CheckpointError("its lora_adapter_metadata is no table; the file is damaged")
    plain = {_PREFIX.sub("", name, count=1): value for name, value in settings.items()}
    if plain.get("use_dora"):
        raise CheckpointError("it is a DoRA, which changes the norms of weights too; train it without use_dora")
    alpha = plain.get("lora_alpha")
    for pattern, value in (plain.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", layer):
            alpha = value
            break
    if alpha is None:
        return 1.0
    return float(alpha) / (rank**0.5 if plain.get("use_rslora") else rank)
