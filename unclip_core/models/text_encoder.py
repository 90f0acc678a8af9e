"""Text transformers over token ids: the paper's own caption encoder (Table 3), and the text half of a CLIP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import TextEncoderConfig, TextTowerConfig
from .layers import TransformerBlock


class _TextTransformer(nn.Module):
    """Token and position embeddings through pre-norm blocks and a final LayerNorm."""

    def __init__(self, config: TextEncoderConfig | TextTowerConfig) -> None:
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

    def _states(self, ids: Tensor, visible: Tensor) -> Tensor:
        """ids (B, T), visible bool, broadcastable to (B, heads, T, T) -> states (B, T, width)."""
        x = self.token_embedding(ids) + self.position_embedding[: ids.shape[1]]
        for block in self.blocks:
            x, _ = block(x, visible)
        return self.norm(x)


class TextEncoder(_TextTransformer):
    """The caption transformer of the paper's decoder and autoregressive prior, after GLIDE's. Every real token sees
    every other; padding is masked."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids (B, T) int64 and mask (B, T) bool (True = real token) -> (B, T, width). Raises ValueError for T above
        context_length."""
        length = ids.shape[1]
        if length > self.config.context_length:
            raise ValueError(
                f"TextEncoder: got {length} tokens, but this model reads at most {self.config.context_length}; "
                "shorten the caption"
            )
        # A token always sees itself: a row without any real token stays finite.
        itself = torch.eye(length, dtype=torch.bool, device=ids.device)
        return self._states(ids, mask[:, None, None, :] | itself)

    def pooled(self, states: Tensor, mask: Tensor) -> Tensor:
        """The state of the last real token (B, width): what GLIDE adds to the time embedding."""
        positions = torch.arange(mask.shape[1], device=mask.device)
        last = (positions * mask).amax(dim=1)  # (B,)
        return states[torch.arange(len(states), device=states.device), last]


class TextTower(_TextTransformer):
    """The text half of a CLIP, also of a decoder that reads captions by one of its own (Stable unCLIP: OpenCLIP's
    ViT-H). A token sees those before it; padding is seen as well."""

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) int64 -> (B, T, width), T at most context_length."""
        length = ids.shape[1]
        return self._states(ids, torch.ones(length, length, dtype=torch.bool, device=ids.device).tril())
