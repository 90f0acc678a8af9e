"""XLM-RoBERTa (Conneau et al. 2020) with M-CLIP's projection (Carlsson et al. 2022): Kandinsky 2.1's text encoder.

A transformer with its norms behind the residuals. Real tokens see each other; padding sees them, and is not seen.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import MultilingualConfig
from .kernels import Linear
from .layers import attend, split_heads


class _Block(nn.Module):
    """Post-norm transformer block."""

    def __init__(self, config: MultilingualConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        self.norm_1 = nn.LayerNorm(width, config.norm_eps)
        self.mlp_in = Linear(width, config.mlp_width)
        self.mlp_out = Linear(config.mlp_width, width)
        self.norm_2 = nn.LayerNorm(width, config.norm_eps)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """x (B, T, width), visible (B, 1, 1, T) bool -> (B, T, width)."""
        x = self.norm_1(x + self.proj(attend(*split_heads(self.qkv(x), 3, self.heads), visible)))
        return self.norm_2(x + self.mlp_out(F.gelu(self.mlp_in(x))))


class MultilingualEncoder(nn.Module):
    """Token ids -> their states, and their mean through a projection."""

    def __init__(self, config: MultilingualConfig, dim: int) -> None:
        """dim: D of the projection."""
        super().__init__()
        width = config.width
        if width % config.heads:
            raise ValueError(f"MultilingualEncoder: width {width} must be divisible by heads {config.heads}")
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary_size, width)
        self.position_embedding = nn.Embedding(config.positions, width)
        self.type_embedding = nn.Embedding(1, width)  # of sentence pairs' first; here there are no others
        self.norm_in = nn.LayerNorm(width, config.norm_eps)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.out = nn.Linear(width, dim)
        for table in (self.token_embedding, self.position_embedding, self.type_embedding):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """ids (B, T) int64, mask (B, T) bool (True = real token) -> states (B, T, width), pooled (B, D)."""
        # Real tokens are counted from the padding's id on, which is padding's own position too (fairseq).
        positions = mask.cumsum(1) * mask + self.config.padding
        x = self.token_embedding(ids) + self.position_embedding(positions) + self.type_embedding.weight
        x = self.norm_in(x)
        visible = mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, visible)
        weight = mask.to(x.dtype)[:, :, None]
        return x, self.out((x * weight).sum(1) / weight.sum(1))
