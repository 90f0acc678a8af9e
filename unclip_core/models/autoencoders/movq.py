"""MoVQ (Zheng et al. 2022), Kandinsky 2's autoencoder: the latent scales and shifts every norm of its decoder."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config import AutoencoderConfig
from ..kernels import Conv2d
from ..layers import GroupNorm
from .blocks import EPS, Decoder, Encoder, PlainNorm


class SpatialNorm(nn.Module):
    """GroupNorm, then scaled and shifted, pixel by pixel, by projections of the latent."""

    def __init__(self, channels: int, latent_channels: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, EPS)
        self.scale = Conv2d(latent_channels, channels, 1)
        self.shift = Conv2d(latent_channels, channels, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x (B, C, H, W), z (B, latent_channels, h, w) -> (B, C, H, W)."""
        # 1x1 convolutions of enlarged pixels are enlarged 1x1 convolutions of pixels, at a fraction of the work.
        scale, shift = (F.interpolate(part(z), size=x.shape[-2:], mode="nearest") for part in (self.scale, self.shift))
        return torch.addcmul(shift, self.norm(x), scale)


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

    def encode(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in -1..1, sides multiples of the factor -> latents (B, C, h, w) float32."""
        return self.quant_conv(self.encoder(x.to(self.quant_conv.bias.dtype))).float() * self.config.latent_scale

    def decode(self, latent: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> pictures (B, 3, H, W) float32, about -1..1."""
        z = (latent / self.config.latent_scale).to(self.post_quant_conv.bias.dtype)
        return self.decoder(self.post_quant_conv(z), z).float()


def _spatial_norm(config: AutoencoderConfig, channels: int) -> SpatialNorm:
    return SpatialNorm(channels, config.latent_channels, config.norm_groups)
