"""The attention of latent diffusion's UNets (Rombach et al. 2022): a transformer block over the pixels of a map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .kernels import Linear
from .layers import GroupNorm, KeyValue, split_heads, zero_init

NORM_EPS = 1e-6  # of the group norm before it; the UNet's other norms have their own


class SpatialTransformer(nn.Module):
    """Pixels attend to each other, then to the conditioning tokens, then pass a gated MLP; with residuals.

    Channels of a head: head_channels. Weights of keys, queries and values have no bias.
    """

    def __init__(self, channels: int, head_channels: int, context_width: int, groups: int) -> None:
        super().__init__()
        if channels % head_channels:
            raise ValueError(
                f"SpatialTransformer: {channels} channels must be divisible by head_channels {head_channels}"
            )
        self.heads = channels // head_channels
        self.norm = GroupNorm(groups, channels, NORM_EPS)
        self.proj_in = Linear(channels, channels)
        self.norm_1 = nn.LayerNorm(channels)
        self.qkv = Linear(channels, 3 * channels, bias=False)
        self.proj_1 = Linear(channels, channels)
        self.norm_2 = nn.LayerNorm(channels)
        self.query = Linear(channels, channels, bias=False)
        self.context_kv = nn.Linear(context_width, 2 * channels, bias=False)
        self.proj_2 = Linear(channels, channels)
        self.norm_3 = nn.LayerNorm(channels)
        self.mlp_in = Linear(channels, 8 * channels)  # values, then gates
        self.mlp_out = Linear(4 * channels, channels)
        self.proj_out = zero_init(Linear(channels, channels))

    def project_context(self, tokens: Tensor) -> KeyValue:
        """Keys and values of the conditioning tokens (B, L, context_width)."""
        return split_heads(self.context_kv(tokens), 2, self.heads)

    def forward(self, x: Tensor, context: KeyValue, mask: Tensor | None = None) -> Tensor:
        """x (B, C, H, W); context from `project_context`; mask bool, broadcastable to (B, heads, H * W, L)."""
        batch, channels, height, width = x.shape
        pixels = self.norm(x).permute(0, 2, 3, 1).reshape(batch, height * width, channels)  # a view if channels-last
        h = self.proj_in(pixels)
        h = h + self.proj_1(_attend(*split_heads(self.qkv(self.norm_1(h)), 3, self.heads)))
        (query,) = split_heads(self.query(self.norm_2(h)), 1, self.heads)
        keys, values = (part.to(query.dtype) for part in context)
        h = h + self.proj_2(_attend(query, keys, values, mask))
        value, gate = self.mlp_in(self.norm_3(h)).chunk(2, dim=-1)
        h = h + self.mlp_out(value * F.gelu(gate))
        return x + self.proj_out(h).view(batch, height, width, channels).permute(0, 3, 1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention merged to (B, T, heads * c), always fused: Stable Diffusion 2's scores are too large to be rounded to
    half precision on the way to the softmax."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
