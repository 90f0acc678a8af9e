"""Tensor names of autoencoders -> ours: diffusers' (VQModel, AutoencoderKL), and those of the original files."""

from __future__ import annotations

from .keys import Rule

PART = "autoencoder"
_TOP = {"codebook": "quantize.embedding.weight"}
_BLOCK = {"norm_1": "norm1", "conv_1": "conv1", "norm_2": "norm2", "conv_2": "conv2", "skip": "conv_shortcut"}
_SPATIAL_NORM = {"norm": "norm_layer", "scale": "conv_y", "shift": "conv_b"}
_MIDDLE = {"block_1": "resnets.0", "block_2": "resnets.1", "attention": "attentions.0"}
# What diffusers called an attention's layers before mid-2023, when most of these models were published.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

_ORIGINAL_BLOCK = _BLOCK | {"skip": "nin_shortcut"}
_ORIGINAL_MIDDLE = {"block_1": "block_1", "block_2": "block_2", "attention": "attn_1"}


def autoencoder_rule(name: str) -> Rule:
    """Where one of our autoencoder's tensors comes from, in the part "autoencoder"."""
    half, _, rest = name.partition(".")
    if half not in ("encoder", "decoder"):
        return Rule(PART, (_TOP.get(name, name),))
    return Rule(PART, tuple(f"{half}.{inner}" for inner in _half(half, rest)))


def todays_name(name: str) -> str:
    """A tensor of an autoencoder of diffusers', by the name that it has there since."""
    if ".attentions." not in name:
        return name
    place, module, leaf = name.rsplit(".", 2)
    return f"{place}.{_OLD_ATTENTION.get(module, module)}.{leaf}"


def _half(half: str, name: str) -> tuple[str, ...]:
    first, _, rest = name.partition(".")
    if first in ("conv_in", "conv_out"):
        return (name,)
    if first == "norm_out":
        return (f"conv_norm_out.{_norm(rest)}",)
    if first == "middle":
        module, _, leaf = rest.partition(".")
        place = f"mid_block.{_MIDDLE[module]}"
        return _attention(place, leaf) if module == "attention" else (_block(place, leaf),)
    level, kind, inner = rest.split(".", 2)
    place = f"{'down' if half == 'encoder' else 'up'}_blocks.{level}"
    if kind == "resample":
        return (f"{place}.{'downsamplers' if half == 'encoder' else 'upsamplers'}.0.conv.{inner}",)
    index, _, leaf = inner.partition(".")
    if kind == "attentions":
        return _attention(f"{place}.attentions.{index}", leaf)
    return (_block(f"{place}.resnets.{index}", leaf),)


def _block(place: str, name: str) -> str:
    module, _, leaf = name.partition(".")
    return f"{place}.{_BLOCK[module]}.{_norm(leaf) if module.startswith('norm') else leaf}"


def _attention(place: str, name: str) -> tuple[str, ...]:
    module, _, leaf = name.partition(".")
    if module == "qkv":
        return tuple(f"{place}.to_{part}.{leaf}" for part in "qkv")
    if module == "proj":
        return (f"{place}.to_out.0.{leaf}",)
    # The norm's own name says whether the latent modulates it.
    kind = "spatial_norm" if "." in leaf else "group_norm"
    return (f"{place}.{kind}.{_norm(leaf)}",)


def _norm(leaf: str) -> str:
    """`weight` of a plain norm, or `scale.weight` of one that the latent modulates."""
    module, dot, inner = leaf.partition(".")
    return f"{_SPATIAL_NORM[module]}.{inner}" if dot else leaf


def original_names(name: str, levels: int) -> tuple[str, ...]:
    """What latent diffusion and MoVQ call one of our tensors, of an autoencoder with `levels` levels."""
    half, _, rest = name.partition(".")
    first, _, inner = rest.partition(".")
    if half not in ("encoder", "decoder"):
        return (_TOP.get(name, name),)
    if first in ("conv_in", "conv_out"):
        return (name,)
    if first == "norm_out":
        return (f"{half}.norm_out.{_norm(inner)}",)
    if first == "middle":
        module, _, leaf = inner.partition(".")
        place = f"{half}.mid.{_ORIGINAL_MIDDLE[module]}"
        return _original_attention(place, leaf) if module == "attention" else (_original_block(place, leaf),)
    level, kind, inner = inner.split(".", 2)
    # They number the decoder's levels from the picture, we in running order.
    place = f"{half}.down.{level}" if half == "encoder" else f"{half}.up.{levels - 1 - int(level)}"
    if kind == "resample":
        return (f"{place}.{'downsample' if half == 'encoder' else 'upsample'}.conv.{inner}",)
    index, _, leaf = inner.partition(".")
    if kind == "attentions":
        return _original_attention(f"{place}.attn.{index}", leaf)
    return (_original_block(f"{place}.block.{index}", leaf),)


def _original_block(place: str, name: str) -> str:
    module, _, leaf = name.partition(".")
    return f"{place}.{_ORIGINAL_BLOCK[module]}.{_norm(leaf) if module.startswith('norm') else leaf}"


def _original_attention(place: str, name: str) -> tuple[str, ...]:
    module, _, leaf = name.partition(".")
    if module == "qkv":
        return tuple(f"{place}.{part}.{leaf}" for part in "qkv")
    return (f"{place}.proj_out.{leaf}" if module == "proj" else f"{place}.norm.{_norm(leaf)}",)
