"""The UNet of decoder and upsamplers: ADM's residual UNet (Dhariwal & Nichol 2021) with attention over
[conditioning tokens; pixels] as in GLIDE, or with latent diffusion's transformer blocks. Blocks, skips and heads are
ordered as in ADM, whom latent diffusion follows, so that published weights map onto it one to one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DecoderConfig, UNetConfig, UpsamplerConfig
from .layers import GroupNorm, KeyValue, Resample, ResBlock, SpatialAttention, TimeEmbedding, silu, zero_init
from .spatial_transformer import SpatialTransformer


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention if the level attends, then maybe a resampling."""

    def __init__(
        self, blocks: list[nn.Module], attentions: list[nn.Module], resample: nn.Module | None, *, first: int = 0
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions)
        self.resample = resample
        self.first_context = first  # index of the first attention's keys and values in the conditioning


class DeepFeatures:
    """What a UNet's deep part made of an earlier step, for steps that run its outer blocks alone (DeepCache, Ma et al.
    2023): from one step to the next the deep features hardly change.

    depth: how many blocks on the way down, and on the way up, run at every step. reuse: whether the next forward takes
    what was kept, if it can; a whole forward keeps. It is the memory of one run over one batch, and holds no weights.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.reuse = False
        self._kept: Tensor | None = None

    def keep(self, x: Tensor) -> None:
        """x (B, C, h, w), which enters the first outer block on the way up."""
        self._kept = x

    def take(self, rows: int) -> Tensor | None:
        """What was kept for the first `rows` rows; None for a forward that is to be whole, or of more rows."""
        if not self.reuse or self._kept is None or len(self._kept) < rows:
            return None
        return self._kept[:rows]


class UNet(nn.Module):
    """(B, in, H, W) and a time embedding -> (B, out, H, W). H and W: multiples of patch_size * 2^(levels - 1)."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels * mult for mult in config.channel_mult]
        side = config.image_size // config.patch_size
        attends = [side >> level in config.attention_resolutions for level in range(len(widths))]
        self._attention_count = 0
        patch_area = config.patch_size**2
        self.conv_in = nn.Conv2d(config.in_channels * patch_area, config.channels, 3, padding=1)
        self.time_embed = TimeEmbedding(config.channels, config.time_width)

        skips = [config.channels]
        channels = config.channels
        down = []
        for level, width in enumerate(widths):
            blocks = [self._block(channels if i == 0 else width, width) for i in range(config.depth)]
            is_last = level == len(widths) - 1
            down.append(self._level(blocks, width, attends[level], None if is_last else "down"))
            skips += [width] * (config.depth + (not is_last))
            channels = width
        self.down = nn.ModuleList(down)

        self.mid = self._level([self._block(channels, channels)], channels, any(attends), None)
        self.mid_out = self._block(channels, channels)

        up = []
        for level, width in reversed(list(enumerate(widths))):
            blocks = []
            for _ in range(config.depth + 1):
                blocks.append(self._block(channels + skips.pop(), width))
                channels = width
            up.append(self._level(blocks, width, attends[level], "up" if level else None))
        self.up = nn.ModuleList(up)

        self.norm_out = GroupNorm(config.norm_groups, channels, config.norm_eps)
        self.conv_out = zero_init(nn.Conv2d(channels, config.out_channels * patch_area, 3, padding=1))
        self.conv_fine = self.fine_out = None
        if config.fine_channels:
            self.conv_fine = nn.Conv2d(channels, config.fine_channels * patch_area, 3, padding=1)
            self.fine_out = zero_init(nn.Conv2d(config.fine_channels, config.out_channels, 3, padding=1))

    def time_features(self, t: Tensor) -> Tensor:
        """Time embeddings (N, time_width) of t (N,)."""
        return self.time_embed(t)

    def project_context(self, tokens: Tensor) -> tuple[KeyValue, ...]:
        """Keys and values of conditioning tokens (B, L, context_width) for every attention, in running order."""
        levels = [*self.down, self.mid, *self.up]
        return tuple(attention.project_context(tokens) for level in levels for attention in level.attentions)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        context: Sequence[KeyValue] = (),
        context_mask: Tensor | None = None,
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        """x (B, in, H, W); time (B, time_width), conditioning already added; returns (B, out, H, W) float32.

        context: from `project_context`; context_mask (B, L) bool, True = attend to that token ("joint" alone).
        deep: the memory of a run that does not compute every block at every step; None computes all.
        """
        x = x.to(self.conv_in.weight.dtype)
        if self.config.patch_size > 1:
            x = F.pixel_unshuffle(x, self.config.patch_size)
        time = F.silu(time)
        masks: dict[int, Tensor] = {}  # key mask per number of pixels

        reused = None if deep is None else deep.take(len(x))
        outer = self.config.skip_count if reused is None else deep.depth  # blocks to run on either way

        x = self.conv_in(x)
        skips = [x]
        for level in self.down:
            for index, block in enumerate(level.blocks):
                if len(skips) < outer:
                    x = _attend(level, index, block(x, time), context, context_mask, masks)
                    skips.append(x)
            if level.resample is not None and len(skips) < outer:
                x = level.resample(x, time)
                skips.append(x)
        if reused is None:
            x = _attend(self.mid, 0, self.mid.blocks[0](x, time), context, context_mask, masks)
            x = self.mid_out(x, time)
        else:
            x = reused
        left = self.config.skip_count  # blocks of the way up that are to come
        for level in self.up:
            for index, block in enumerate(level.blocks):
                if left <= outer:
                    if deep is not None and reused is None and left == deep.depth:
                        deep.keep(x)
                    x = block(torch.cat([x, skips.pop()], dim=1), time)
                    x = _attend(level, index, x, context, context_mask, masks)
                left -= 1
            if level.resample is not None and left < outer:
                x = level.resample(x, time)

        x = silu(self.norm_out(x))
        picture = self._full_size(self.conv_out(x))
        if self.conv_fine is not None:
            picture = picture + self.fine_out(silu(self._full_size(self.conv_fine(x))))
        return picture.float()

    def _full_size(self, x: Tensor) -> Tensor:
        """Patches (B, n * patch_size^2, h, w) side by side: (B, n, H, W)."""
        return F.pixel_shuffle(x, self.config.patch_size) if self.config.patch_size > 1 else x

    def _block(self, in_channels: int, out_channels: int, resample: str = "none") -> ResBlock:
        config = self.config
        return ResBlock(
            in_channels,
            out_channels,
            config.time_width,
            scale_shift=config.time_conditioning == "scale_shift",
            groups=config.norm_groups,
            eps=config.norm_eps,
            dropout=config.dropout,
            resample=resample,
        )

    def _attention(self, width: int) -> SpatialAttention | SpatialTransformer:
        heads, context, groups = self.config.head_channels, self.config.context_width, self.config.norm_groups
        if self.config.attention == "cross":
            return SpatialTransformer(width, heads, context, groups)
        return SpatialAttention(width, heads, context, groups, self.config.norm_eps)

    def _level(self, blocks: list[nn.Module], width: int, attends: bool, direction: str | None) -> Level:
        config = self.config
        attentions = [self._attention(width) for _ in (blocks if attends else ())]
        first = self._attention_count
        self._attention_count += len(attentions)
        resampler = None
        if direction is not None:
            resampler = self._block(width, width, direction) if config.resblock_updown else Resample(width, direction)
        return Level(blocks, attentions, resampler, first=first)


class StageUNet(nn.Module):
    """A stage's network around a UNet, and what decoders and upsamplers share of it; subclasses define `forward`."""

    per_step = "forward"

    def __init__(self, config: DecoderConfig | UpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(config.unet)

    def time_features(self, t: Tensor) -> Tensor:
        """Time embeddings (N, time_width) of t (N,), to be passed to `forward` row by row; give a sampler's whole
        schedule in one batch."""
        return self.unet.time_features(t)


def _attend(
    level: Level,
    index: int,
    x: Tensor,
    context: Sequence[KeyValue],
    context_mask: Tensor | None,
    masks: dict[int, Tensor],
) -> Tensor:
    """Run the level's attention number `index`, if it has any, over [context; pixels of x]."""
    if not level.attentions:
        return x
    if not context:
        return level.attentions[index](x)
    mask = None
    if context_mask is not None:
        pixels = x.shape[-2] * x.shape[-1]
        if pixels not in masks:
            masks[pixels] = F.pad(context_mask, (0, pixels), value=True)[:, None, None, :]
        mask = masks[pixels]
    return level.attentions[index](x, context[level.first_context + index], mask)
