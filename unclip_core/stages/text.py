"""What the stages that read captions share: checked texts, their rows on the device, and the unconditional text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ARPriorConfig, DecoderConfig, PriorConfig
from ..runtime.placement import Placed
from ..types import Embedding, TextEncoding, broadcast_batch, check_same_clip


@dataclass(frozen=True, eq=False)
class TextStage:
    """A handle of a stage that reads captions: immutable, its weights shared by every handle made from it.

    encode_null: encodes the empty caption, for stacks whose unconditional text it is.
    """

    config: PriorConfig | ARPriorConfig | DecoderConfig
    network: Placed
    encode_null: Callable[[], TextEncoding] | None = None

    WHO = ""

    def null_text(self) -> TextEncoding | None:
        """The encoded empty caption, or None for a stack whose unconditional text is learned (the network holds it).

        Raises ValueError when the stack needs the empty caption and has no CLIP to encode it.
        """
        if self.config.null_text == "learned":
            return None
        if self.encode_null is None:
            raise ValueError(
                f"{self.WHO}: this model's unconditional is the encoded empty caption, but it was opened without "
                "its CLIP; open it with encode_null=lambda: clip.encode_text([''])"
            )
        return self.check_text(self.encode_null())

    def check_text(self, text: TextEncoding, who: str = "") -> TextEncoding:
        """The text. Raises ValueError, in the name of `who`, for what is no TextEncoding, or one of another CLIP."""
        who = who or self.WHO
        if not isinstance(text, TextEncoding):
            raise ValueError(f"{who}: text must be a TextEncoding, got {type(text).__name__}; link CLIP Text Encode")
        check_same_clip(who, self.config.clip_id, self.config.clip_dim, text.clip_id, text.embed.shape[1])
        return text

    def check_embed(self, name: str, embed: Embedding, who: str = "") -> Embedding:
        """The embedding. Raises ValueError, in the name of `who`, for what is no Embedding, or one of another CLIP."""
        who = who or self.WHO
        if not isinstance(embed, Embedding):
            raise ValueError(
                f"{who}: {name} must be an Embedding, got {type(embed).__name__}; link a prior, CLIP Image Encode or, "
                "for a caption, Text As Embedding"
            )
        check_same_clip(who, self.config.clip_id, self.config.clip_dim, embed.clip_id, embed.vector.shape[1])
        return embed

    def check_prompt(
        self, text: TextEncoding, negative_text: TextEncoding | None, start_embed: Embedding | None = None
    ) -> int:
        """How many captions a prior's run has. Raises ValueError for another CLIP's input, and for unequal batches."""
        sizes = {"text": len(self.check_text(text))}
        if negative_text is not None:
            sizes["negative_text"] = len(self.check_text(negative_text))
        if start_embed is not None:
            sizes["start_embed"] = len(self.check_embed("start_embed", start_embed))
        return broadcast_batch(self.WHO, **sizes)

    def warn_of_negative(self, paired: bool, negative: TextEncoding | None, warn: Callable[[str], None]) -> None:
        """Warn of a negative text where guidance, whose two halves are `paired`, is off."""
        if negative is not None and not paired:
            warn(f"{self.WHO}: at guidance_scale 1 negative_text has no effect; raise the scale, or unlink the text")


def choose_closest(vectors: Tensor, text: TextEncoding, clip_id: str) -> Embedding:
    """Of each row's candidates (B * count, candidates, D) the one with the highest cosine to its caption, of which
    there are B, or one for all rows.

    Where this CLIP's embeddings have unit norm they get it; a prior's own samples only come close.
    """
    rows = [row * len(text) // len(vectors) for row in range(len(vectors))]
    closeness = F.cosine_similarity(vectors, text.embed.float().cpu()[rows, None], dim=-1)  # (B * count, candidates)
    chosen = vectors[torch.arange(len(vectors)), closeness.argmax(1)]
    chosen = F.normalize(chosen, dim=-1) if text.normalised else chosen
    return Embedding(chosen, clip_id, "image", captions=tuple(text.captions[row] for row in rows))


def rows_of_items(items: slice, count: int, candidates: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(the rows of a text that some items are of, and which of these each (item, candidate) is of), int64.

    Items are text-row-major: item = row * count + k.
    """
    first, last = items.start // count, (items.stop - 1) // count + 1
    places = torch.arange(items.start, items.stop, device=device) // count - first
    return torch.arange(first, last, device=device), places.repeat_interleave(candidates)


def with_nulls(places: Tensor, rows: int, nulls: int) -> Tensor:
    """The places (N,) of conditional rows, then those of their unconditional ones, which stand behind the `rows`:
    `nulls` of them, one for all or one for each."""
    return torch.cat([places, rows + (places if nulls > 1 else torch.zeros_like(places))])


def stack_texts(first: TextRows, second: TextRows) -> TextRows:
    """Rows of two texts as one batch; the shorter is padded with masked tokens."""
    length = max(first.tokens.shape[1], second.tokens.shape[1])
    first, second = first.padded(length), second.padded(length)
    ids = None if first.ids is None or second.ids is None else torch.cat([first.ids, second.ids])
    return TextRows(
        torch.cat([first.tokens, second.tokens]),
        torch.cat([first.embed, second.embed]),
        torch.cat([first.mask, second.mask]),
        ids,
    )


@dataclass(frozen=True)
class TextRows:
    """A text as networks read it, on their device: tokens (B, T, W), embed (B, D), mask (B, T) bool, ids (B, T)."""

    tokens: Tensor
    embed: Tensor
    mask: Tensor
    ids: Tensor | None = None

    @classmethod
    def of(cls, text: TextEncoding, device: torch.device) -> TextRows:
        """An encoding's tensors, moved."""
        return cls(text.tokens.to(device), text.embed.to(device), text.mask.to(device), text.ids.to(device))

    def take(self, rows: Tensor) -> TextRows:
        """Rows by index; a text of one row serves every index."""
        if self.embed.shape[0] == 1:
            rows = torch.zeros_like(rows)
        ids = None if self.ids is None else self.ids[rows]
        return TextRows(self.tokens[rows], self.embed[rows], self.mask[rows], ids)

    def padded(self, length: int) -> TextRows:
        """With masked tokens up to `length`."""
        extra = length - self.tokens.shape[1]
        if extra == 0:
            return self
        pad = torch.nn.functional.pad
        ids = None if self.ids is None else pad(self.ids, (0, extra))
        return TextRows(pad(self.tokens, (0, 0, 0, extra)), self.embed, pad(self.mask, (0, extra)), ids)
