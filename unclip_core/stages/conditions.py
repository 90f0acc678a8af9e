"""What a decoder's run paints, and what guidance leads away from, as the network reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..models.decoder import Conditioning, DecoderNetwork
from ..models.stable_decoder import StableDecoderNetwork
from ..types import Embedding, TextEncoding, repeat_rows
from .text import TextRows, stack_texts


@dataclass(frozen=True)
class Conditions:
    """What a run paints, and what guidance leads away from (the negatives). None is the stack's own null."""

    embed: Embedding | None = None
    text: TextEncoding | None = None
    negative_embed: Embedding | None = None
    negative_text: TextEncoding | None = None

    def sizes(self) -> dict[str, int]:
        """Batch sizes by input name."""
        return {name: len(value) for name, value in vars(self).items() if value is not None}

    def with_text_of_each_embed(self) -> Conditions:
        """With every caption repeated for the embeddings that a prior made of it: item = caption * count + k."""
        embeds = 1 if self.embed is None else len(self.embed)

        def of_each(text: TextEncoding | None) -> TextEncoding | None:
            if text is None or len(text) == 0 or embeds % len(text):
                return text
            return repeat_rows(embeds // len(text), text)[0]

        return replace(self, text=of_each(self.text), negative_text=of_each(self.negative_text))

    def repeat(self, count: int) -> Conditions:
        """Every item `count` times in a row."""
        return Conditions(*repeat_rows(count, self.embed, self.text, self.negative_embed, self.negative_text))

    def conditioning(
        self,
        network: DecoderNetwork | StableDecoderNetwork,
        rows: slice,
        pair: bool,
        extra: Tensor | None,
        device: torch.device,
    ) -> Conditioning:
        """What the network, on `device`, makes of the given rows; for a pair, unconditional ones follow them.

        extra: (B, C, h, w), the input channels after x_t's, for all these rows.
        """
        index = torch.arange(rows.start, rows.stop, device=device)
        embeds = [self.embed, self.negative_embed] if pair else [self.embed]
        vector, drop_embed = _stack_embeds(embeds, index, device)
        levels = [0 if embed is None else embed.noise_level for embed in embeds]
        texts = [self.text, self.negative_text] if pair else [self.text]
        captions, drop_text = _stack_captions(texts, index, device)
        return network.condition(
            vector,
            *((captions.tokens, captions.mask, captions.embed, captions.ids) if captions is not None else ()),
            drop_embed=drop_embed,
            drop_text=drop_text,
            batch=len(texts) * len(index),
            extra=extra,
            level=torch.tensor(levels, device=device).repeat_interleave(len(index)),
        )


def _stack_embeds(
    embeds: list[Embedding | None], index: Tensor, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """One half of rows after the other: (halves * B, D), None if all are null; and which rows are, None if none is."""
    given = [embed for embed in embeds if embed is not None]
    if not given:
        return None, None
    halves = []
    for embed in embeds:
        vector = (given[0] if embed is None else embed).vector.to(device)
        halves.append(vector[index if len(vector) > 1 else index * 0])
    return torch.cat(halves), _dropped(embeds, index)


def _stack_captions(
    texts: list[TextEncoding | None], index: Tensor, device: torch.device
) -> tuple[TextRows | None, Tensor | None]:
    """As `_stack_embeds`, for captions."""
    given = [text for text in texts if text is not None]
    if not given:
        return None, None
    halves = [TextRows.of(given[0] if text is None else text, device).take(index) for text in texts]
    stacked = halves[0] if len(halves) == 1 else stack_texts(*halves)
    return stacked, _dropped(texts, index)


def _dropped(halves: list, index: Tensor) -> Tensor | None:
    if all(half is not None for half in halves):
        return None
    return torch.cat([torch.full(index.shape, half is None, device=index.device) for half in halves])
