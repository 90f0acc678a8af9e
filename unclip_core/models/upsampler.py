"""The diffusion upsamplers: a UNet that sees the low-resolution picture as extra channels (§2.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import UpsamplerConfig
from .layers import TimeEmbedding, zero_init
from .unet import DeepFeatures, StageUNet

LEVEL_SCALE = 1000.0  # levels are told on the time features' own scale, 0..1000


class UpsamplerNetwork(StageUNet):
    """x_t and the enlarged low-resolution picture -> the prediction. No text, no guidance."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__(config)
        self.level_embed = None
        if config.augmentation_level:
            self.level_embed = TimeEmbedding(config.unet.channels, config.unet.time_width)
            zero_init(self.level_embed.linear_2)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        low: Tensor,
        level: Tensor | None = None,
        *,
        time: Tensor | None = None,
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        """x_t (B, 3, H, W), t (B,), low (B, 3, H, W) in -1..1, already enlarged -> (B, out, H, W) float32.

        level: (B,) in 0..1, how degraded `low` is; None means the config's `sampling_level`. time: precomputed
        `time_features` of t (B or 1 rows), which then replaces t. deep: see `UNet.forward`.
        """
        if low.shape != x_t.shape:
            raise ValueError(
                f"UpsamplerNetwork: low has shape {tuple(low.shape)}, but x_t {tuple(x_t.shape)}; enlarge it first"
            )
        if time is None:
            time = self.time_features(t)
        if self.level_embed is not None:
            if level is None:
                level = torch.full((1,), self.config.sampling_level, device=x_t.device)
            time = time + self.level_embed(level * LEVEL_SCALE)
        output = self.unet(torch.cat([x_t, low.to(x_t.dtype)], dim=1), time, deep=deep)
        return output + low if self.config.residual else output


class UpsamplerPair(nn.Module):
    """Karlo's improved super-resolution as it is stored: `first` makes every step but the last, `final` that one.

    They never run together, so `Upsampler` holds each as a network of its own.
    """

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.first = UpsamplerNetwork(config)
        self.final = UpsamplerNetwork(config)

    def forward(self, x_t: Tensor, t: Tensor, low: Tensor, level: Tensor | None = None) -> Tensor:
        """The first network's prediction: training is of that one, and leaves the final one as it is."""
        return self.first(x_t, t, low, level)


def stored_upsampler(config: UpsamplerConfig) -> UpsamplerNetwork | UpsamplerPair:
    """What a file of this config holds, with fresh weights."""
    return UpsamplerPair(config) if config.final_network else UpsamplerNetwork(config)
