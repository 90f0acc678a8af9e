"""The KL-regularised autoencoder of latent diffusion (Rombach et al. 2022), as Stable unCLIP uses it."""

from __future__ import annotations

from torch import Tensor, nn

from ...config import AutoencoderConfig
from ..kernels import Conv2d
from .blocks import EPS, Decoder, Encoder, PlainNorm
from .strips import decode_in_strips, encode_in_strips


class KLAutoencoder(nn.Module):
    """`encode` gives the mean of the latent's Gaussian: the same picture, the same latent."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        size, latent = (config.channels, config.depth, config.attention_levels), config.latent_channels

        def norm(channels: int) -> PlainNorm:
            return PlainNorm(config.norm_groups, channels, EPS)

        self.encoder = Encoder(*size, 2 * latent, norm)
        self.quant_conv = Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = Conv2d(latent, latent, 1)
        self.decoder = Decoder(*size, latent, norm)

    def encode(self, x: Tensor, strip: int | None = None) -> Tensor:
        """Pictures (B, 3, H, W) in -1..1, sides multiples of the factor -> latents (B, C, h, w) float32, scaled.

        strip: pixels of the strips that large maps are made in (`strips.py`); None makes them whole.
        """
        features = encode_in_strips(self.encoder, x.to(self.quant_conv.bias.dtype), strip)
        mean, _ = self.quant_conv(features).chunk(2, dim=1)
        return mean.float() * self.config.latent_scale

    def decode(self, latent: Tensor, strip: int | None = None) -> Tensor:
        """Scaled latents (B, C, h, w) -> pictures (B, 3, H, W) float32, about -1..1. strip: as for `encode`."""
        z = (latent / self.config.latent_scale).to(self.post_quant_conv.bias.dtype)
        return decode_in_strips(self.decoder, self.post_quant_conv(z), None, strip).float()
