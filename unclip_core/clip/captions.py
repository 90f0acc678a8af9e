"""The text half of a CLIP that its config describes, without open_clip: importing that takes longer than a picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import ClipConfig, TextTowerConfig
from ..models.text_encoder import TextTower
from .words import WordTokenizer


class CaptionTower(nn.Module):
    """Token ids -> the embedding of the end token, which has the highest id. `text_states` takes it as a CLIP."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        text = config.text
        words = WordTokenizer.of(config).size if config.vocabulary else text.vocabulary_size
        self.tower = TextTower(TextTowerConfig(words, config.context_length, text.width, text.layers, text.heads))
        self.text_projection = nn.Parameter(torch.empty(text.width, config.embed_dim))

    @property
    def token_embedding(self) -> nn.Embedding:
        """Of ids."""
        return self.tower.token_embedding

    @property
    def ln_final(self) -> nn.LayerNorm:
        """What gives the token states."""
        return self.tower.norm

    def encode_text(self, ids: Tensor) -> Tensor:
        """ids (B, T) int64 -> (B, D), not normalised."""
        states = self.tower(ids)
        return states[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)] @ self.text_projection
