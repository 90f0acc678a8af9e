"""diffusers' and transformers' tensor names -> ours, per stage."""

from __future__ import annotations

from collections.abc import Callable

from .header import CheckpointError
from .keys import Rule

# Tables that old files carry along: position indices, masks.
IGNORED = ("position_ids", "causal_attention_mask")

_PRIOR = {
    "text_in": "encoder_hidden_states_proj",
    "embed_in": "embedding_proj",
    "time_embed": "time_embedding",
    "noisy_in": "proj_in",
    "norm_out": "norm_out",
    "out": "proj_to_clip_embeddings",
    "query": "prd_embedding",
    "position_embedding": "positional_embedding",
    "mean": "clip_mean",
    "std": "clip_std",
}
_PRIOR_BLOCK = {"proj": "attn1.to_out.0", "norm_1": "norm1", "norm_2": "norm3", "mlp_in": "ff.net.0.proj"}
_PRIOR_BLOCK["mlp_out"] = "ff.net.2"
_TEXT_PROJ = {
    "embed_to_time": "clip_image_embeddings_project_to_time_embeddings",
    "embed_to_tokens": "clip_extra_context_tokens_proj",
    "text_to_time": "embedding_proj",
    "text_proj": "encoder_hidden_states_proj",
    "text_norm": "text_encoder_hidden_states_norm",
    "null_embed": "learned_classifier_free_guidance_embeddings",
}
_UNET = {"conv_in": "conv_in", "time_embed": "time_embedding", "norm_out": "conv_norm_out", "conv_out": "conv_out"}
_RES_BLOCK = {
    "norm_1": "norm1",
    "conv_1": "conv1",
    "time": "time_emb_proj",
    "norm_2": "norm2",
    "conv_2": "conv2",
    "skip": "conv_shortcut",
}
_ATTENTION = {
    "norm": ("group_norm",),
    "qkv": ("to_q", "to_k", "to_v"),
    "context_kv": ("add_k_proj", "add_v_proj"),
    "proj": ("to_out.0",),
}
_CLIP_BLOCK = {
    "ln_1": ("layer_norm1",),
    "ln_2": ("layer_norm2",),
    "attn.in_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.out_proj": ("self_attn.out_proj",),
    "mlp.c_fc": ("mlp.fc1",),
    "mlp.c_proj": ("mlp.fc2",),
}
_CLIP_TEXT = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
}
_CLIP_VISION = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "ln_pre.weight": "vision_model.pre_layrnorm.weight",  # transformers' own spelling
    "ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "ln_post.weight": "vision_model.post_layernorm.weight",
    "ln_post.bias": "vision_model.post_layernorm.bias",
    "proj": "visual_projection.weight",
}


def rule_of(stage: str) -> Callable[[str], Rule]:
    """The function from a stage's own tensor names to rules. Raises CheckpointError for a stage diffusers lacks."""
    rules = {"clip": _clip, "prior": _prior, "decoder": _decoder, "upsampler_256": _upsampler}
    if stage not in rules:
        raise CheckpointError(f"a diffusers folder has no stage {stage!r}; it may have {', '.join(rules)}")
    return rules[stage]


def _prior(name: str) -> Rule:
    first, _, rest = name.partition(".")
    if first != "blocks":
        return Rule("prior", (f"{_PRIOR[first]}.{rest}" if rest else _PRIOR[first],))
    index, module, leaf = rest.split(".")
    block = f"transformer_blocks.{index}"
    if module == "qkv":
        return Rule("prior", tuple(f"{block}.attn1.to_{part}.{leaf}" for part in "qkv"))
    return Rule("prior", (f"{block}.{_PRIOR_BLOCK[module]}.{leaf}",))


def _decoder(name: str) -> Rule:
    first, _, rest = name.partition(".")
    if first == "unet":
        return Rule("decoder", unet_names(rest))
    return Rule("text_proj", (f"{_TEXT_PROJ[first]}.{rest}" if rest else _TEXT_PROJ[first],))


def _upsampler(name: str) -> Rule:
    network, _, rest = name.rpartition("unet.")
    return Rule("super_res_last" if network == "final." else "super_res_first", unet_names(rest))


def unet_names(name: str) -> tuple[str, ...]:
    """diffusers' names of one of our UNet's tensors, to be put together in this order. Raises KeyError for one that
    diffusers' UNets lack."""
    first, _, rest = name.partition(".")
    if first in _UNET:
        return (f"{_UNET[first]}.{rest}",)
    if first == "mid_out":
        return (_res_block("mid_block.resnets.1", rest),)
    if first == "mid":
        kind, index, inner = rest.split(".", 2)
        place = "mid_block"
    elif first not in ("down", "up"):
        raise KeyError(name)
    else:
        level, kind, inner = rest.split(".", 2)
        place = f"{first}_blocks.{level}"
        if kind == "resample":
            return (_res_block(f"{place}.{'downsamplers' if first == 'down' else 'upsamplers'}.0", inner),)
        index, _, inner = inner.partition(".")
    if kind == "blocks":
        return (_res_block(f"{place}.resnets.{index}", inner),)
    module, _, leaf = inner.partition(".")
    return tuple(f"{place}.attentions.{index}.{part}.{leaf}" for part in _ATTENTION[module])


def _res_block(place: str, name: str) -> str:
    module, _, leaf = name.partition(".")
    return f"{place}.{_RES_BLOCK[module]}.{leaf}"


def _clip(name: str) -> Rule:
    vision = name.startswith("visual.")
    part, tower = ("image_encoder", "vision_model") if vision else ("text_encoder", "text_model")
    name = name.removeprefix("visual.")
    if name.startswith("transformer.resblocks."):
        index, inner = name.removeprefix("transformer.resblocks.").split(".", 1)
        # open_clip writes in_proj_weight, but out_proj.weight.
        module, leaf = inner.replace("in_proj_", "in_proj.").rsplit(".", 1)
        names = tuple(f"{tower}.encoder.layers.{index}.{their}.{leaf}" for their in _CLIP_BLOCK[module])
        return Rule(part, names)
    return Rule(part, ((_CLIP_VISION if vision else _CLIP_TEXT)[name],), transposed=name in ("proj", "text_projection"))
