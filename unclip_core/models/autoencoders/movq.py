"""MoVQ (Zheng et al. 2022), Kandinsky 2's autoencoder: the latent scales and shifts every norm of its decoder."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ...config import AutoencoderConfig
from ..kernels import Conv2d
from .blocks import EPS, Decoder, Encoder, PlainNorm, SpatialNorm
from .strips import decode_in_strips, encode_in_strips


class MoVQ(nn.Module):
    """`encode` and `decode`. Latents are neither sampled nor snapped to the codebook, as Kandinsky 2 runs it."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        size, latent = (config.channels, config.depth, config.attention_levels), config.latent_channels
        self.encoder = Encoder(*size, latent, lambda channels: PlainNorm(config.norm_groups, channels, EPS))
        self.quant_conv = Conv2d(latent, latent, 1)
        self.codebook = nn.Parameter(torch.empty(config.codes, latent))
        self.post_quant_conv = Conv2d(latent, latent, 1)
        self.decoder = Decoder(*size, latent, partial(_spatial_norm, config))
        nn.init.uniform_(self.codebook, -1.0 / max(1, config.codes), 1.0 / max(1, config.codes))

    def encode(self, x: Tensor, strip: int | None = None) -> Tensor:
        """Pictures (B, 3, H, W) in -1..1, sides multiples of the factor -> latents (B, C, h, w) float32.

        strip: pixels of the strips that large maps are made in (`strips.py`); None makes them whole.
        """
        features = encode_in_strips(self.encoder, x.to(self.quant_conv.bias.dtype), strip)
        return self.quant_conv(features).float() * self.config.latent_scale

    def decode(self, latent: Tensor, strip: int | None = None) -> Tensor:
        """Latents (B, C, h, w) -> pictures (B, 3, H, W) float32, about -1..1. strip: as for `encode`."""
        z = (latent / self.config.latent_scale).to(self.post_quant_conv.bias.dtype)
        return decode_in_strips(self.decoder, self.post_quant_conv(z), z, strip).float()


def _spatial_norm(config: AutoencoderConfig, channels: int) -> SpatialNorm:
    return SpatialNorm(channels, config.latent_channels, config.norm_groups)
