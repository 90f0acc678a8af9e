"""The caption transformer of the paper's decoder and autoregressive prior (Table 3), after GLIDE's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import TextEncoderConfig
from .layers import TransformerBlock


class TextEncoder(nn.Module):
    """Token ids -> hidden states after a final LayerNorm. Every real token sees every other; padding is masked."""

    def __init__(self, config: TextEncoderConfig) -> None:
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

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids (B, T) int64 and mask (B, T) bool (True = real token) -> (B, T, width). T <= context_length."""
        length = ids.shape[1]
        if length > self.config.context_length:
            raise ValueError(
                f"TextEncoder: got {length} tokens, but this model reads at most {self.config.context_length}; "
                "shorten the caption"
            )
        x = self.token_embedding(ids) + self.position_embedding[:length]
        # A token always sees itself: a row without any real token stays finite.
        itself = torch.eye(length, dtype=torch.bool, device=ids.device)
        visible = mask[:, None, None, :] | itself
        for block in self.blocks:
            x, _ = block(x, visible)
        return self.norm(x)

    def pooled(self, states: Tensor, mask: Tensor) -> Tensor:
        """The state of the last real token (B, width): what GLIDE adds to the time embedding."""
        positions = torch.arange(mask.shape[1], device=mask.device)
        last = (positions * mask).amax(dim=1)  # (B,)
        return states[torch.arange(len(states), device=states.device), last]
