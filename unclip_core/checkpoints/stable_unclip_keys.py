"""diffusers' and transformers' tensor names of Stable unCLIP -> ours."""

from __future__ import annotations

from .autoencoder_keys import autoencoder_rule
from .diffusers_keys import unet_names
from .keys import Rule

# Our parts' places in a Stable unCLIP folder.
PARTS = {"network": "unet", "autoencoder": "vae", "text_tower": "text_encoder", "normalizer": "image_normalizer"}
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


def stable_unclip_rule(name: str) -> Rule:
    """Where one of our stored decoder's tensors comes from."""
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
