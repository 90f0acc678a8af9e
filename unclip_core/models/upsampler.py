"""The diffusion upsamplers: a UNet that sees the low-resolution picture as extra channels (§2.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import UpsamplerConfig
from .layers import TimeEmbedding, zero_init
from .unet import UNet

LEVEL_SCALE = 1000.0  # levels are told on the time features' own scale, 0..1000


class UpsamplerNetwork(nn.Module):
    """x_t and the enlarged low-resolution picture -> the prediction. No text, no guidance.

    With `final_network` a second UNet of the same shape makes the last step (Karlo's improved super-resolution).
    """

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(config.unet)
        self.final_unet = UNet(config.unet) if config.final_network else None
        self.level_embed = None
        if config.augmentation_level:
            self.level_embed = TimeEmbedding(config.unet.channels, config.unet.time_width)
            zero_init(self.level_embed.linear_2)

    def time_features(self, t: Tensor, final: bool = False) -> Tensor:
        """Time embeddings (N, time_width) of t (N,), to be passed to `forward` row by row."""
        return self._network(final).time_features(t)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        low: Tensor,
        level: Tensor | None = None,
        *,
        final: bool = False,
        time: Tensor | None = None,
    ) -> Tensor:
        """x_t (B, 3, H, W), t (B,), low (B, 3, H, W) in -1..1, already enlarged -> (B, out, H, W) float32.

        level: (B,) in 0..1, how degraded `low` is; None means the config's `sampling_level`. time: precomputed
        `time_features` of t (B or 1 rows), which then replaces t. final: use the second network.
        """
        if low.shape != x_t.shape:
            raise ValueError(
                f"UpsamplerNetwork: low has shape {tuple(low.shape)}, but x_t {tuple(x_t.shape)}; enlarge it first"
            )
        unet = self._network(final)
        if time is None:
            time = unet.time_features(t)
        if self.level_embed is not None:
            if level is None:
                level = torch.full((1,), self.config.sampling_level, device=x_t.device)
            time = time + self.level_embed(level * LEVEL_SCALE)
        output = unet(torch.cat([x_t, low.to(x_t.dtype)], dim=1), time)
        return output + low if self.config.residual else output

    def _network(self, final: bool) -> UNet:
        if not final:
            return self.unet
        if self.final_unet is None:
            raise ValueError("UpsamplerNetwork: this upsampler has no final network (config.final_network is False)")
        return self.final_unet
