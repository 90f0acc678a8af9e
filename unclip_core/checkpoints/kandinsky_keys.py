"""diffusers' names of Kandinsky 2's decoders -> ours. The UNet is Karlo's, wider; its conditioning lies inside it."""

from __future__ import annotations

from collections.abc import Callable

from . import diffusers_keys
from .autoencoder_keys import autoencoder_rule
from .diffusers_keys import unet_names
from .header import CheckpointError
from .keys import Rule

PART = "decoder"
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
    return autoencoder_rule(rest) if part == "autoencoder" else kandinsky_rule(rest)


def kandinsky_rule(name: str) -> Rule:
    """Where one of our decoder's tensors comes from."""
    first, _, rest = name.partition(".")
    if first == "unet":
        return Rule(PART, unet_names(rest))
    if first == "hint":
        _, index, leaf = rest.split(".")
        return Rule(PART, (f"add_embedding.input_hint_block.{2 * int(index)}.{leaf}",))  # a SiLU stands between two
    return Rule(PART, (f"{_CONDITIONING[first]}.{rest}",))
