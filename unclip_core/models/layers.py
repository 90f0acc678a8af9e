"""Building blocks shared by the networks: time features, norms, attention, transformer and residual blocks.

Everything runs in the weights' own dtype (float32, bfloat16 or float16) or under autocast. The statistics of the norms
and the softmax are float32 in every case, because PyTorch's kernels accumulate in float32. Feature maps are
channels-last wherever the input is: nothing here changes the layout.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels import (
    Conv2d,
    LearningGroupNorm,
    Linear,
    attend_by_products,
    beats_fused_attention,
    learning_attention,
    learns_attention_by_products,
    learns_norms_by_hand,
)

MAX_PERIOD = 10000.0  # of the slowest sinusoid of a time embedding, in timesteps (Vaswani et al. 2017)
KeyValue = tuple[Tensor, Tensor]  # each (B, heads, tokens, head channels)


def time_features(t: Tensor, width: int) -> Tensor:
    """Sinusoids of t (N,): (N, width) float32, cosines first (Karlo's order). Raises ValueError for an odd width."""
    if width % 2:
        raise ValueError(f"time_features: width must be even, got {width}")
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.to(torch.float32)[:, None] * torch.exp(-math.log(MAX_PERIOD) * exponents)  # (N, half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Sinusoids of `features` channels through Linear, SiLU, Linear to `width`."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.features = features
        self.linear_1 = nn.Linear(features, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """t (N,) on the training scale 0..T -> (N, width). A whole schedule may be one batch."""
        x = time_features(t, self.features).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(x)))


class GroupNorm(nn.GroupNorm):
    """GroupNorm that keeps the input's dtype.

    Autocast would run it in float32 on CUDA and hand float32 maps to everything up to the next convolution; the
    kernel's statistics are float32 anyway.
    """

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) -> the same shape, dtype and layout; then times `scale` plus `shift`, (B or 1, C)."""
        if learns_norms_by_hand(x) and (scale is None or len(scale) == len(x)):
            return LearningGroupNorm.apply(x, self.num_groups, self.eps, self.weight, self.bias, scale, shift)
        if x.dtype == self.weight.dtype and not (x.is_cuda and torch.is_autocast_enabled("cuda")):
            out = super().forward(x)
        else:
            with torch.autocast(x.device.type, enabled=False):
                out = F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        if scale is None:
            return out
        factor, term = (each.to(x.dtype)[:, :, None, None] for each in (scale, shift))
        return torch.addcmul(term, out, factor)


def silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that the caller no longer needs: in place when no gradient is recorded."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ExactBuffers(nn.Module):
    """A module whose own buffers stay float32 when it is cast: bfloat16 would be too coarse for them."""

    def _apply(self, fn, *args, **kwargs):
        exact = {name: buffer for name, buffer in self.named_buffers(recurse=False) if not buffer.is_meta}
        super()._apply(fn, *args, **kwargs)
        for name, buffer in exact.items():
            setattr(self, name, buffer.to(getattr(self, name).device))
        return self


def zero_init(module: nn.Module) -> nn.Module:
    """Zero a layer's parameters, so that its residual branch starts as the identity (Dhariwal & Nichol 2021)."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """(B, T, parts * heads * c) -> `parts` tensors (B, heads, T, c), views of x."""
    batch, length, width = x.shape
    return x.view(batch, length, parts, heads, width // (parts * heads)).permute(2, 0, 3, 1, 4).unbind(0)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of q over k, v (B, heads, T, c), merged to (B, T, heads * c).

    mask: bool (True = attend) or additive, broadcastable to (B, heads, T_q, T_k).
    """
    if mask is not None and mask.is_floating_point():
        mask = mask.to(q.dtype)
    if beats_fused_attention(q):
        out = attend_by_products(q, k, v, mask)
    elif learns_attention_by_products(q):
        out = learning_attention(q, k, v, mask)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: fused-qkv attention, then a GELU MLP of 4x width; 12 * width^2 weights."""

    def __init__(self, width: int, heads: int, depth: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"TransformerBlock: width {width} must be divisible by heads {heads}")
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp_in = Linear(width, 4 * width)
        self.mlp_out = Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)
        # Residual branches shrink with depth, so that the sum over all blocks keeps unit variance at the start.
        for linear, std in (
            (self.qkv, width**-0.5),
            (self.proj, (2 * depth * width) ** -0.5),
            (self.mlp_in, (2 * width) ** -0.5),
            (self.mlp_out, (2 * depth * 4 * width) ** -0.5),
        ):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, past: KeyValue | None = None, last: bool = False
    ) -> tuple[Tensor, KeyValue]:
        """x (B, T, width) -> (output, this call's keys and values).

        past: keys and values of the tokens before x, attended to first. last: compute the last token's output only.
        mask: as in `attend`, over [past; x].
        """
        q, k, v = split_heads(self.qkv(self.norm_1(x)), 3, self.heads)
        own = (k, v)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        if last:
            x, q = x[:, -1:], q[:, :, -1:]
            mask = None if mask is None else mask[..., -1:, :]
        x = x + self.dropout(self.proj(attend(q, k, v, mask)))
        x = x + self.dropout(self.mlp_out(F.gelu(self.mlp_in(self.norm_2(x)))))
        return x, own

    def keys_values(self, x: Tensor) -> KeyValue:
        """Only the keys and values of x (B, T, width): all that a cached prefix needs from the last block."""
        return split_heads(self.qkv(self.norm_1(x)), 3, self.heads)[1:]


class SpatialAttention(nn.Module):
    """Self-attention of a feature map over [conditioning tokens; pixels], with a residual (ADM, GLIDE)."""

    def __init__(self, channels: int, head_channels: int, context_width: int, groups: int, eps: float) -> None:
        super().__init__()
        if channels % head_channels:
            raise ValueError(
                f"SpatialAttention: {channels} channels must be divisible by head_channels {head_channels}"
            )
        self.heads = channels // head_channels
        self.norm = GroupNorm(groups, channels, eps)
        self.qkv = Linear(channels, 3 * channels)
        self.context_kv = nn.Linear(context_width, 2 * channels) if context_width else None
        self.proj = zero_init(Linear(channels, channels))

    def project_context(self, tokens: Tensor) -> KeyValue:
        """Keys and values of the conditioning tokens (B, L, context_width)."""
        return split_heads(self.context_kv(tokens), 2, self.heads)

    def forward(self, x: Tensor, context: KeyValue | None = None, mask: Tensor | None = None) -> Tensor:
        """x (B, C, H, W); context from `project_context`; mask as in `attend`, over [tokens; pixels]."""
        batch, channels, height, width = x.shape
        pixels = self.norm(x).permute(0, 2, 3, 1).reshape(batch, height * width, channels)  # a view if channels-last
        q, k, v = split_heads(self.qkv(pixels), 3, self.heads)
        if context is not None:
            k, v = torch.cat([context[0].to(k.dtype), k], dim=2), torch.cat([context[1].to(v.dtype), v], dim=2)
        out = self.proj(attend(q, k, v, mask))  # (B, H * W, C)
        return x + out.view(batch, height, width, channels).permute(0, 3, 1, 2)


class ResBlock(nn.Module):
    """Residual block conditioned on the time embedding (Dhariwal & Nichol 2021).

    scale_shift: the embedding scales and shifts the second norm's output; otherwise it is added before that norm.
    resample: "none", "down" (2x average pooling) or "up" (2x nearest) inside the block.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_width: int,
        *,
        scale_shift: bool,
        groups: int,
        eps: float,
        dropout: float = 0.0,
        resample: str = "none",
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = resample
        self.norm_1 = GroupNorm(groups, in_channels, eps)
        self.conv_1 = Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_width, 2 * out_channels if scale_shift else out_channels)
        self.norm_2 = GroupNorm(groups, out_channels, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = zero_init(Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x (B, C, H, W), time (B or 1, time_width) already through SiLU -> (B, out, H', W')."""
        time = self.time(time)
        shared = not self.scale_shift and time.shape[0] == 1  # then adding it is the convolution's business
        h = self._conv_1(silu(self.norm_1(x)), time[0] if shared else None)
        if self.resample != "none":
            x = resample(x, self.resample)
        time = time.to(h.dtype)
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = self.norm_2(h, 1 + scale, shift)
        else:
            h = self.norm_2(h if shared else h + time[:, :, None, None])
        return self.conv_2(self.dropout(silu(h)), add=x if self.skip is None else self.skip(x))

    def _conv_1(self, h: Tensor, bias: Tensor | None) -> Tensor:
        if self.resample == "up":
            return self.conv_1.over_doubled(h, bias=bias)
        return self.conv_1(resample(h, "down") if self.resample == "down" else h, bias=bias)


def resample(x: Tensor, direction: str) -> Tensor:
    """Halve ("down", mean of 2x2) or double ("up", nearest) the sides of x (B, C, H, W)."""
    if direction == "down":
        return F.avg_pool2d(x, 2)
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Resample(nn.Module):
    """Resampling with one convolution: strided 3x3 down, or nearest 2x then 3x3 up."""

    def __init__(self, channels: int, direction: str) -> None:
        super().__init__()
        self.direction = direction
        self.conv = Conv2d(channels, channels, 3, stride=2 if direction == "down" else 1, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x (B, C, H, W) -> half or double the sides; `time` is unused, for the signature of ResBlock."""
        return self.conv(x) if self.direction == "down" else self.conv.over_doubled(x)
