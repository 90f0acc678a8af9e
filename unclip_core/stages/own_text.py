"""Captions for a decoder with a text encoder of its own (Stable unCLIP), whatever CLIP they come from."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..clip.byte_pairs import byte_pair_ids
from ..config import TextTowerConfig
from ..models.text_tower import TextTower
from ..runtime.placement import Placed
from ..types import TextEncoding

# Captions whose states are kept: of runs of the same ones the network is read once. 0.3 MB each at full size.
KEPT = 64


@dataclass(frozen=True, eq=False)
class OwnText:
    """A decoder's own text encoder."""

    config: TextTowerConfig
    network: Placed[TextTower]
    _kept: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def encode(self, captions: tuple[str, ...]) -> TextEncoding:
        """The captions with their states for tokens, all of them to be seen; they have no embedding: (B, 0).

        Loads the network, which may evict the decoder's: before a run, not in it.
        """
        ids, mask = byte_pair_ids(list(captions), self.config.context_length, self.config.padding)
        if new := list(dict.fromkeys(caption for caption in captions if caption not in self._kept)):
            network, device = self.network.on_device(), self.network.device
            for caption in new:  # one by one: a caption's states do not depend on what is encoded beside it
                row = ids[captions.index(caption)][None]
                self._kept[caption] = network(row.to(device)).float().cpu()
        tokens = torch.cat([self._kept[caption] for caption in captions])
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return TextEncoding(tokens, tokens.new_empty(len(ids), 0), torch.ones_like(mask), ids, "", captions)
