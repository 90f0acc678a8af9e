"""What stands beside a decoder while it learns: the autoencoder of its latents, and CLIP's embedding of no picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..clip.model import Clip
from ..config import DecoderConfig
from ..models.decoder import Autoencoder, build_autoencoder

NETWORK, AUTOENCODER = "network.", "autoencoder."  # parts of a latent decoder as it is stored


@dataclass(frozen=True, eq=False)
class Frozen:
    """autoencoder: of a latent decoder. null_embed: (1, D), CLIP's of an all-zero picture, where that is the null."""

    autoencoder: Autoencoder | None = None
    null_embed: Tensor | None = None


def frozen_beside(config: DecoderConfig, read: Callable[[], Mapping[str, Tensor]] | None, clip: Clip) -> Frozen:
    """read: gives the state dict of the decoder as it is stored, None where there is none yet.

    Raises ValueError for a latent decoder that has none: its autoencoder is not trained here.
    """
    null = clip.encode_null_image().vector if config.null_embed == "zero_picture" else None
    if config.autoencoder is None:
        return Frozen(None, null)
    if read is None:
        raise ValueError(
            f"train decoder: {config.decoder_id} paints latents, whose autoencoder is not trained here; begin with "
            "weights that have it, as --init kandinsky-2-2:decoder"
        )
    with torch.device("meta"):
        autoencoder = build_autoencoder(config.autoencoder)
    state = {name: value.float() for name, value in part_of(read(), AUTOENCODER).items()}
    autoencoder.load_state_dict(state, strict=True, assign=True)
    return Frozen(autoencoder.eval().requires_grad_(False), null)


def part_of(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part, by their names in it."""
    return {name.removeprefix(part): value for name, value in state.items() if name.startswith(part)}


def network_state(config: object, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Of a stage as it is stored what the network that learns has. config: the stage's."""
    return state if getattr(config, "autoencoder", None) is None else part_of(state, NETWORK)
