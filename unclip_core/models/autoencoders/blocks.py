"""The two halves of an autoencoder, after Rombach et al. 2022 (LDM), with one place for the kind of norm.

A norm is called as `norm(x, z)`: z is the latent (B, C, h, w) that MoVQ's decoder is modulated by, None elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import Conv2d, Linear
from ..layers import GroupNorm, attend, silu, split_heads

EPS = 1e-6
Norm = Callable[[int], nn.Module]  # channels -> a norm


class PlainNorm(GroupNorm):
    """GroupNorm that pays no heed to the latent."""

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return super().forward(x)


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


class Block(nn.Module):
    """A residual block without a time embedding."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm) -> None:
        super().__init__()
        self.norm_1 = norm(in_channels)
        self.conv_1 = Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm_2 = norm(out_channels)
        self.conv_2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """x (B, in, H, W) -> (B, out, H, W)."""
        h = self.conv_1(silu(self.norm_1(x, z)))
        return self.conv_2(silu(self.norm_2(h, z)), add=x if self.skip is None else self.skip(x))


class Attention(nn.Module):
    """Self-attention over all pixels, one head, with a residual."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        batch, channels, height, width = x.shape
        pixels = self.norm(x, z).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        out = self.proj(attend(*split_heads(self.qkv(pixels), 3, 1)))  # (B, H * W, C)
        return x + out.view(batch, height, width, channels).permute(0, 3, 1, 2)


class Middle(nn.Module):
    """Block, attention, block at the narrowest level."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.block_1 = Block(channels, channels, norm)
        self.attention = Attention(channels, norm)
        self.block_2 = Block(channels, channels, norm)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        return self.block_2(self.attention(self.block_1(x, z), z), z)


class Level(nn.Module):
    """The blocks of one resolution, each with an attention behind it where the level attends, and a resampling."""

    def __init__(self, blocks: list[Block], attends: bool, norm: Norm, resample: Conv2d | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        widths = [block.conv_2.out_channels for block in blocks]
        self.attentions = nn.ModuleList(Attention(width, norm) for width in widths if attends)
        self.resample = resample

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """All but the resampling."""
        for index, block in enumerate(self.blocks):
            x = block(x, z)
            if self.attentions:
                x = self.attentions[index](x, z)
        return x


class Encoder(nn.Module):
    """Pictures (B, 3, H, W) -> (B, out_channels, H / factor, W / factor)."""

    def __init__(
        self, channels: tuple[int, ...], depth: int, attention_levels: tuple[int, ...], out_channels: int, norm: Norm
    ) -> None:
        super().__init__()
        self.conv_in = Conv2d(3, channels[0], 3, padding=1)
        levels, width = [], channels[0]
        for index, wide in enumerate(channels):
            blocks = []
            for _ in range(depth):
                blocks.append(Block(width, wide, norm))
                width = wide
            halves = index < len(channels) - 1
            down = Conv2d(wide, wide, 3, stride=2) if halves else None
            levels.append(Level(blocks, index in attention_levels, norm, down))
        self.levels = nn.ModuleList(levels)
        self.middle = Middle(width, norm)
        self.norm_out = norm(width)
        self.conv_out = Conv2d(width, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) in -1..1."""
        x = self.conv_in(x)
        for level in self.levels:
            x = level(x)
            if level.resample is not None:
                x = level.resample(F.pad(x, (0, 1, 0, 1)))  # one-sided, as in LDM
        return self.conv_out(silu(self.norm_out(self.middle(x))))


class Decoder(nn.Module):
    """Latents (B, latent_channels, h, w) -> pictures (B, 3, h * factor, w * factor)."""

    def __init__(
        self, channels: tuple[int, ...], depth: int, attention_levels: tuple[int, ...], latent_channels: int, norm: Norm
    ) -> None:
        super().__init__()
        width = channels[-1]
        self.conv_in = Conv2d(latent_channels, width, 3, padding=1)
        self.middle = Middle(width, norm)
        levels = []
        for index, wide in reversed(list(enumerate(channels))):
            blocks = []
            for _ in range(depth + 1):
                blocks.append(Block(width, wide, norm))
                width = wide
            up = Conv2d(wide, wide, 3, padding=1) if index else None
            levels.append(Level(blocks, index in attention_levels, norm, up))
        self.levels = nn.ModuleList(levels)
        self.norm_out = norm(width)
        self.conv_out = Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """x (B, latent_channels, h, w); z: what modulates the norms, of any smaller size."""
        x = self.middle(self.conv_in(x), z)
        for level in self.levels:
            x = level(x, z)
            if level.resample is not None:
                x = level.resample.over_doubled(x)
        return self.conv_out(silu(self.norm_out(x, z)))
