"""The text half of a CLIP, for decoders that read captions by one of their own (Stable unCLIP: OpenCLIP's ViT-H)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import TextTowerConfig
from .layers import TransformerBlock


class TextTower(nn.Module):
    """Token ids -> hidden states after a final LayerNorm. A token sees those before it; padding is seen as well."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.position_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads, config.depth) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding, std=0.01)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) int64 -> (B, T, width), T at most context_length."""
        length = ids.shape[1]
        x = self.token_embedding(ids) + self.position_embedding[:length]
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        for block in self.blocks:
            x, _ = block(x, causal)
        return self.norm(x)
