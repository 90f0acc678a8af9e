"""LoRAs on handles: checked when they are put on, attached for the length of one run, and recorded by an inversion."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from ..checks import is_number
from ..config import DecoderConfig, PriorConfig
from ..models.lora import AppliedLora, Lora, joined, layer_shapes, with_branches
from ..runtime.compiling import compile_steps, is_compiled
from ..types import LoraRecord

if TYPE_CHECKING:
    from ..checkpoints.lora_file import LoraFile
    from ..clip.model import Clip
    from .decoder import Decoder
    from .prior import Prior

WHO = "Apply LoRA"
Handle = TypeVar("Handle", "Prior", "Decoder")
Network = TypeVar("Network", bound=nn.Module)


def add_lora(stage: str, handle: Handle, lora: Lora, strength: float) -> Handle:
    """The handle with a LoRA more; as it is at strength 0.

    Raises ValueError for a strength that is no finite number, and for branches that do not fit the handle's network.
    """
    check_strength(strength)
    _check_fits(stage, handle.config, lora)
    if strength == 0.0:
        return handle
    return replace(handle, loras=(*handle.loras, AppliedLora(lora, float(strength))))


def check_strength(strength: float) -> None:
    """Raises ValueError for a strength that is no finite number."""
    if not is_number(strength):
        raise ValueError(f"{WHO}: strength must be a number (1 is as trained, 0 off), got {strength!r}")


def branched(network: Network, loras: tuple[AppliedLora, ...]) -> Network:
    """The network for one run of a handle with these LoRAs. What it was given stays as it is."""
    if not loras:
        return network
    twin = with_branches(network, joined(loras))
    return compile_steps(twin) if is_compiled(network) else twin


def records(loras: tuple[AppliedLora, ...]) -> tuple[LoraRecord, ...]:
    """What an inversion under these LoRAs says of them."""
    return tuple(LoraRecord(each.lora.name, each.strength, each.lora.fingerprint) for each in loras)


def apply_lora(
    file: LoraFile,
    strength: float = 1.0,
    *,
    clip: Clip | None = None,
    prior: Prior | None = None,
    decoder: Decoder | None = None,
) -> tuple[Clip | None, Prior | None, Decoder | None]:
    """The handles with the file's LoRA, where it has one for them; None stays None.

    strength: on the branches; the embeddings of new words have none, but strength 0 leaves them out too. Raises
    ValueError where a handle is of another model than the file's, and where the file has nothing for any handle.
    """
    check_strength(strength)
    try:
        changed = []
        if prior is not None and "prior" in file.info.ids:
            changed.append("prior")
            prior = prior.with_lora(file.stage_lora("prior", prior.config), strength)
        if decoder is not None and "decoder" in file.info.ids:
            changed.append("decoder")
            decoder = decoder.with_lora(file.stage_lora("decoder", decoder.config), strength)
        if clip is not None and file.words:
            changed.append("clip")
            if file.info.clip_id != clip.clip_id:
                raise ValueError(
                    f"{file.info.path} has words of the CLIP {file.info.clip_id}, but this one is {clip.clip_id}; load "
                    "the model that it was trained on"
                )
            clip = clip if strength == 0.0 else clip.with_words(file.words)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(WHO) else f"{WHO}: {error}") from None
    if not changed:
        linked = [name for name, value in (("clip", clip), ("prior", prior), ("decoder", decoder)) if value is not None]
        raise ValueError(
            f"{WHO}: {file.info.path} has {file.contents()}, but linked is {' and '.join(linked) or 'nothing'}; link "
            "what it was trained for"
        )
    return clip, prior, decoder


def _check_fits(stage: str, config: PriorConfig | DecoderConfig, lora: Lora) -> None:
    layers = layer_shapes(stage, config)
    name = config.prior_id if stage == "prior" else config.decoder_id
    for layer, branch in lora.branches.items():
        if layer not in layers:
            raise ValueError(f"{WHO}: the LoRA {lora.name} is of another network: {name} has no layer {layer}")
        rows, *inputs = layers[layer]
        down, up = tuple(branch.down.shape), tuple(branch.up.shape)
        if down[1:] != tuple(inputs) or up != (rows, *down[:1]):
            raise ValueError(
                f"{WHO}: the LoRA {lora.name} is of another network: {layer} of {name} is {layers[layer]}, its branch "
                f"{up} by {down}"
            )
