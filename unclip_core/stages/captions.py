"""Captions as a decoder reads them that has a text encoder of its own, whatever CLIP made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.multilingual import MultilingualEncoder
from ..runtime.placement import Placed
from ..types import TextEncoding

# Captions -> their states, pooled states, mask and ids, under the decoder's own id.
CaptionReader = Callable[[Sequence[str]], TextEncoding]


@dataclass(frozen=True, eq=False)
class MultilingualReader:
    """Kandinsky 2.1's: XLM-R. tokenize: captions -> ids (B, T), mask (B, T) bool."""

    network: Placed[MultilingualEncoder]
    tokenize: Callable[[Sequence[str]], tuple[Tensor, Tensor]]
    encoder_id: str

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> TextEncoding:
        """The captions, encoded. Raises ValueError where the tokenizer cannot be read."""
        ids, mask = self.tokenize(captions)  # before weights are read
        network, device = self.network.on_device(), self.network.device
        tokens, embed = network(ids.to(device), mask.to(device))
        return TextEncoding(tokens.float().cpu(), embed.float().cpu(), mask, ids, self.encoder_id, tuple(captions))
