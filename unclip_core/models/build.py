"""A stage's network by the stage's name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..config import DecoderConfig
from .ar_prior import ARPriorNetwork
from .decoder import DecoderNetwork, LatentDecoder
from .prior import PriorNetwork
from .stable_decoder import StableDecoder, StableDecoderNetwork
from .upsampler import stored_upsampler


def stored_decoder(config: DecoderConfig) -> DecoderNetwork | LatentDecoder | StableDecoder:
    """What a decoder's file holds, with fresh weights: what paints, with the autoencoder and text encoder it has."""
    if config.text == "own_clip":
        return StableDecoder(config)
    return DecoderNetwork(config) if config.autoencoder is None else LatentDecoder(config)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "prior": PriorNetwork,
    "decoder": stored_decoder,
    "upsampler_256": stored_upsampler,
    "upsampler_1024": stored_upsampler,
    "ar_prior": ARPriorNetwork,
}


def painting_network(config: DecoderConfig) -> DecoderNetwork | StableDecoderNetwork:
    """Of a decoder the network that paints, with fresh weights: without autoencoder and text encoder."""
    return StableDecoderNetwork(config) if config.text == "own_clip" else DecoderNetwork(config)


def build_network(stage: str, config: object) -> nn.Module:
    """A stage's network with fresh weights. Raises ValueError for a stage that is none of NETWORKS."""
    if stage not in NETWORKS:
        raise ValueError(f"build_network: no network for stage {stage!r}; choose one of {', '.join(NETWORKS)}")
    return NETWORKS[stage](config)
