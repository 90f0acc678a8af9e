"""Captions for a decoder with a text encoder of its own (Stable unCLIP, Kandinsky 2.1), whatever CLIP they come by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from ..clip.byte_pairs import byte_pair_ids
from ..clip.multilingual import MultilingualTokenizer
from ..config import TextTowerConfig
from ..models.multilingual import MultilingualEncoder
from ..models.text_encoder import TextTower
from ..runtime.device import overflow_advice
from ..runtime.placement import Placed
from ..types import TextEncoding

# Captions whose states are kept: of runs of the same ones the network is read once. 0.3 MB each at full size.
KEPT = 64


@dataclass(frozen=True, eq=False)
class OwnText:
    """A decoder's own text encoder.

    spell: captions -> ids (B, T) int64 and mask (B, T) bool. run: network, ids, mask -> states (B, T, W) and an
    embedding (B, D), D = 0 of an encoder that gives none.
    """

    network: Placed
    spell: Callable[[list[str]], tuple[Tensor, Tensor]]
    run: Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]
    _kept: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @torch.no_grad()
    def encode(self, captions: tuple[str, ...]) -> TextEncoding:
        """The captions with their states for tokens, all of them to be seen, padding too.

        Loads the network, which may evict the decoder's: before a run, not in it. What overflows in a dtype that nobody
        asked for is encoded again in the wider one. Raises ValueError where the encoder's words cannot be read,
        FloatingPointError for NaN.
        """
        ids, mask = self.spell(list(captions))  # before weights are read
        if new := list(dict.fromkeys(caption for caption in captions if caption not in self._kept)):
            network, device = self.network.on_device(), self.network.device
            for caption in new:  # one by one: a caption's states do not depend on what is encoded beside it
                row = [captions.index(caption)]
                found = self.run(network, ids[row].to(device), mask[row].to(device))
                found = tuple(each.float().cpu() for each in found)
                if not all(each.isfinite().all() for each in found):
                    advice = overflow_advice(self.network.dtype)
                    if self.network.widen():
                        return self.encode(captions)
                    raise FloatingPointError(f"Decoder Sample: its text encoder makes NaN or infinity {advice}")
                self._kept[caption] = found
        tokens, embeds = (torch.cat(each) for each in zip(*(self._kept[caption] for caption in captions), strict=True))
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return TextEncoding(tokens, embeds, torch.ones_like(mask), ids, "", tuple(captions))


def own_clip_text(config: TextTowerConfig, network: Placed[TextTower]) -> OwnText:
    """Stable unCLIP's: the text half of a CLIP."""
    spell = partial(byte_pair_ids, context_length=config.context_length, padding=config.padding)

    def run(network: TextTower, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        states = network(ids)
        return states, states.new_empty(len(ids), 0)

    return OwnText(network, spell, run)


def own_multilingual_text(tokenizer: MultilingualTokenizer, network: Placed[MultilingualEncoder]) -> OwnText:
    """Kandinsky 2.1's: XLM-R."""
    return OwnText(network, tokenizer, lambda network, ids, mask: network(ids, mask))
