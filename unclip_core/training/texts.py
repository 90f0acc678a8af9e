"""Captions of a batch: cut into tokens where batches are made, encoded by the frozen CLIP where it lies."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..clip.model import Clip
from ..clip.networks import text_states
from ..types import TextEncoding


class Texts:
    """clip: lies on the device of the training."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self._null: TextEncoding | None = None

    def tokens(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Ids (B, T) and mask (B, T) on the CPU."""
        return self.clip.tokenize(captions)

    @torch.no_grad()
    def encode(self, tokens: tuple[Tensor, ...]) -> TextEncoding:
        """What `Clip.encode_text` gives for the captions, on the tokens' device."""
        return self._encoded(*tokens[:2])

    def _encoded(self, ids: Tensor, mask: Tensor, new: tuple[Tensor, Tensor] | None = None) -> TextEncoding:
        """new: see `text_states`."""
        with torch.autocast(ids.device.type, enabled=False):  # as when pictures are made
            states, embed = text_states(self.clip.text_placed.on_device(), ids, new)
        normalised = self.clip.config.normalised
        embed = F.normalize(embed.float(), dim=-1) if normalised else embed.float()
        return TextEncoding(states.float(), embed, mask, ids, self.clip.clip_id, (), normalised)

    def null(self, device: torch.device) -> TextEncoding:
        """The empty caption's encoding, one row."""
        if self._null is None:
            self._null = self.encode(tuple(each.to(device) for each in self.tokens([""])))
        return self._null
