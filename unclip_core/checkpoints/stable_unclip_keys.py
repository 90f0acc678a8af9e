"""Tensor names of Stable unCLIP -> ours: of diffusers folders, and of the single files that ComfyUI uses.

A single file holds the networks as latent diffusion, open_clip and OpenAI's CLIP name them.
"""

from __future__ import annotations

from collections.abc import Callable

from ..config import DecoderConfig, UNetConfig
from . import diffusers_keys
from .adm_keys import RES_BLOCK, TOP, place_of
from .autoencoder_keys import autoencoder_rule, original_names, todays_name
from .diffusers_keys import unet_names
from .header import StageFile
from .keys import Rule
from .stable_unclip_folder import AUTOENCODER, FILE, NATIVE_CLIP, PARTS, TEXT, UNET, VISION

_TRANSFORMER = {
    "norm": ("norm",),
    "proj_in": ("proj_in",),
    "norm_1": ("transformer_blocks.0.norm1",),
    "qkv": ("transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn1.to_k", "transformer_blocks.0.attn1.to_v"),
    "proj_1": ("transformer_blocks.0.attn1.to_out.0",),
    "norm_2": ("transformer_blocks.0.norm2",),
    "query": ("transformer_blocks.0.attn2.to_q",),
    "context_kv": ("transformer_blocks.0.attn2.to_k", "transformer_blocks.0.attn2.to_v"),
    "proj_2": ("transformer_blocks.0.attn2.to_out.0",),
    "norm_3": ("transformer_blocks.0.norm3",),
    "mlp_in": ("transformer_blocks.0.ff.net.0.proj",),
    "mlp_out": ("transformer_blocks.0.ff.net.2",),
    "proj_out": ("proj_out",),
}
_TEXT = {
    "token_embedding": "embeddings.token_embedding",
    "position_embedding": "embeddings.position_embedding.weight",
    "norm": "final_layer_norm",
}
_TEXT_BLOCK = {
    "norm_1": ("layer_norm1",),
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "proj": ("self_attn.out_proj",),
    "norm_2": ("layer_norm2",),
    "mlp_in": ("mlp.fc1",),
    "mlp_out": ("mlp.fc2",),
}
_OPEN_CLIP = {"position_embedding": "positional_embedding", "norm": "ln_final"}
_OPEN_CLIP_BLOCK = {"norm_1": "ln_1.", "qkv": "attn.in_proj_", "proj": "attn.out_proj."}
_OPEN_CLIP_BLOCK |= {"norm_2": "ln_2.", "mlp_in": "mlp.c_fc.", "mlp_out": "mlp.c_proj."}


def rules_of(found: StageFile) -> Callable[[str], Rule]:
    """The function from a stage's own tensor names to rules, for the parts that the stage is made of."""
    if found.stage == "prior":
        return diffusers_keys.rule_of("prior")
    if found.stage == "clip":
        return lambda name: _clip(name, set(found.parts))
    if FILE in found.parts:
        return lambda name: single_file_rule(name, found.config)
    return stable_unclip_rule


def taken(found: StageFile, part: str, name: str) -> str | None:
    """What a foreign tensor of a part is called here, or None for one that is no part of the stage."""
    if part == FILE:
        return name if _is_in_stage(found, name) else None
    if part == NATIVE_CLIP:  # its text half alone
        return None if name.startswith("visual.") or name == "logit_scale" else name
    if part == "text_encoder" and found.stage == "decoder":  # transformers 5 leaves the prefix out
        return name if name.startswith("text_model.") else f"text_model.{name}"
    return todays_name(name) if part == PARTS["autoencoder"] else name


def _is_in_stage(found: StageFile, name: str) -> bool:
    if found.stage == "clip":
        own_text = "text" in found.config.towers and len(found.parts) == 1
        return name.startswith(f"{VISION}visual.") or (own_text and _is_in_text(name, None))
    depth = found.config.text_tower.depth
    # Beside the autoencoder some files keep what it was trained with.
    halves = tuple(f"{AUTOENCODER}{half}." for half in ("encoder", "decoder", "quant_conv", "post_quant_conv"))
    return name.startswith((UNET, *halves)) or _is_in_text(name, depth)


def _is_in_text(name: str, depth: int | None) -> bool:
    """Whether it is of OpenCLIP's text half: all of it, or its first blocks without the projection."""
    if not name.startswith(TEXT) or name.endswith(("logit_scale", "attn_mask")):
        return False
    rest = name.removeprefix(TEXT)
    if rest.startswith("visual."):
        return False
    if depth is None:
        return True
    _, _, block = rest.partition("resblocks.")
    return int(block.split(".")[0]) < depth if block else rest != "text_projection"


def _clip(name: str, parts: set[str]) -> Rule:
    vision = name.startswith("visual.")
    if ("image_encoder" if vision else "text_encoder") in parts:
        return diffusers_keys.rule_of("clip")(name)
    if not vision and NATIVE_CLIP in parts:
        return Rule(NATIVE_CLIP, (name,))
    return Rule(FILE, (f"{VISION if vision else TEXT}{name}",))


def stable_unclip_rule(name: str) -> Rule:
    """Where one of our stored decoder's tensors comes from in a folder."""
    part, _, rest = name.partition(".")
    if part == "network":
        return Rule(PARTS[part], network_names(rest))
    if part == "autoencoder":
        return Rule(PARTS[part], autoencoder_rule(rest).sources)
    if part == "text_tower":
        return Rule(PARTS[part], tuple(f"text_model.{inner}" for inner in text_tower_names(rest)))
    return Rule(PARTS[part], (rest,))


def network_names(name: str) -> tuple[str, ...]:
    """diffusers' names of one of our `StableDecoderNetwork`'s tensors, to be put together in this order."""
    first, _, rest = name.partition(".")
    if first == "embed_to_time":
        return (f"class_embedding.{rest}",)
    place, _, inner = rest.partition("attentions.")
    if inner:
        index, module, leaf = inner.split(".")
        first, level = rest.split(".")[:2]
        place = "mid_block" if first == "mid" else f"{first}_blocks.{level}"
        return tuple(f"{place}.attentions.{index}.{part}.{leaf}" for part in _TRANSFORMER[module])
    place, _, leaf = rest.partition("resample.conv.")
    if leaf:
        direction, level, _ = place.split(".")
        return (f"{direction}_blocks.{level}.{direction}samplers.0.conv.{leaf}",)
    return unet_names(rest)


def text_tower_names(name: str) -> tuple[str, ...]:
    """transformers' names of one of our `TextTower`'s tensors."""
    first, _, rest = name.partition(".")
    if first != "blocks":
        return (f"{_TEXT[first]}.{rest}" if rest else _TEXT[first],)
    index, module, leaf = rest.split(".")
    return tuple(f"encoder.layers.{index}.{part}.{leaf}" for part in _TEXT_BLOCK[module])


def single_file_rule(name: str, config: DecoderConfig) -> Rule:
    """Where one of our stored decoder's tensors comes from in a single file."""
    part, _, rest = name.partition(".")
    if part == "network":
        return Rule(FILE, tuple(UNET + inner for inner in _ldm_network(rest, config.unet)))
    if part == "autoencoder":
        levels = len(config.autoencoder.channels)
        return Rule(FILE, tuple(AUTOENCODER + inner for inner in original_names(rest, levels)))
    return Rule(FILE, (TEXT + _open_clip(rest),))


def _ldm_network(name: str, config: UNetConfig) -> tuple[str, ...]:
    module, _, leaf = name.rpartition(".")
    if module.startswith("embed_to_time."):
        return (f"label_emb.0.{0 if module.endswith('_1') else 2}.{leaf}",)
    module = module.removeprefix("unet.")
    if module in TOP:
        return (f"{TOP[module]}.{leaf}",)
    place, kind, inner, _ = place_of(module, config)
    if kind == "resample":
        return (f"{place}.{'op' if place.startswith('input') else 'conv'}.{leaf}",)
    if kind == "attentions":
        return tuple(f"{place}.{part}.{leaf}" for part in _TRANSFORMER[inner])
    return (f"{place}.{RES_BLOCK[inner]}.{leaf}",)


def _open_clip(name: str) -> str:
    first, _, rest = name.partition(".")
    if first != "blocks":
        return ".".join(part for part in (_OPEN_CLIP.get(first, first), rest) if part)
    index, module, leaf = rest.split(".")
    return f"transformer.resblocks.{index}.{_OPEN_CLIP_BLOCK[module]}{leaf}"
