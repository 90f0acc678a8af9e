"""diffusers' names of Kandinsky 2's decoders -> ours. The UNet is Karlo's, wider; its conditioning lies inside it."""

from __future__ import annotations

from collections.abc import Callable

from . import diffusers_keys
from .autoencoder_keys import autoencoder_rule
from .diffusers_keys import unet_names
from .header import CheckpointError
from .keys import Rule

PART = "decoder"
TEXT_PART = "text_tower"
# XLM-R's own summary of a text, which M-CLIP does not use.
IGNORED = (*diffusers_keys.IGNORED, "pooler.dense.weight", "pooler.dense.bias")
_MULTILINGUAL = {
    "token_embedding": "transformer.embeddings.word_embeddings",
    "position_embedding": "transformer.embeddings.position_embeddings",
    "type_embedding": "transformer.embeddings.token_type_embeddings",
    "norm_in": "transformer.embeddings.LayerNorm",
    "out": "LinearTransformation",
}
_MULTILINGUAL_BLOCK = {
    "qkv": tuple(f"attention.self.{part}" for part in ("query", "key", "value")),
    "proj": ("attention.output.dense",),
    "norm_1": ("attention.output.LayerNorm",),
    "mlp_in": ("intermediate.dense",),
    "mlp_out": ("output.dense",),
    "norm_2": ("output.LayerNorm",),
}
_CONDITIONING = {
    "embed_to_time": "add_embedding.image_proj",
    "image_time_norm": "add_embedding.image_norm",
    "text_to_time": "add_embedding.text_proj",
    "text_time_norm": "add_embedding.text_norm",
    "embed_to_tokens": "encoder_hid_proj.image_embeds",
    "image_tokens_norm": "encoder_hid_proj.norm",
    "text_proj": "encoder_hid_proj.text_proj",
}


def rule_of(stage: str) -> Callable[[str], Rule]:
    """The function from a stage's own tensor names to rules. Raises CheckpointError for a stage Kandinsky lacks."""
    if stage in ("clip", "prior"):
        return diffusers_keys.rule_of(stage)
    if stage != "decoder":
        raise CheckpointError(f"a Kandinsky has no stage {stage!r}; it may have clip, prior, decoder")
    return _decoder


def _decoder(name: str) -> Rule:
    part, _, rest = name.partition(".")
    rules = {"network": kandinsky_rule, "autoencoder": autoencoder_rule, "text_tower": multilingual_rule}
    return rules[part](rest)


def multilingual_rule(name: str) -> Rule:
    """Where one of our multilingual encoder's tensors comes from: M-CLIP around transformers' XLM-R."""
    first, _, rest = name.partition(".")
    if first != "blocks":
        return Rule(TEXT_PART, (f"{_MULTILINGUAL[first]}.{rest}",))
    index, module, leaf = rest.split(".")
    place = f"transformer.encoder.layer.{index}"
    return Rule(TEXT_PART, tuple(f"{place}.{part}.{leaf}" for part in _MULTILINGUAL_BLOCK[module]))


def kandinsky_rule(name: str) -> Rule:
    """Where one of our decoder's tensors comes from."""
    first, _, rest = name.partition(".")
    if first == "unet":
        return Rule(PART, unet_names(rest))
    if first == "hint":
        _, index, leaf = rest.split(".")
        return Rule(PART, (f"add_embedding.input_hint_block.{2 * int(index)}.{leaf}",))  # a SiLU stands between two
    return Rule(PART, (f"{_CONDITIONING[first]}.{rest}",))
