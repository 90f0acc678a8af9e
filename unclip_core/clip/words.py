"""A tokenizer by whole words, for a CLIP with a small vocabulary of its own. Pure Python.

English splits into words, Chinese into characters, both kinds of double quotes become '"'; other punctuation is not
spoken. Ids: 0 padding, 1 start, 2 unknown, then the vocabulary, then the end, which is the largest id so that
open_clip's "argmax" pooling finds it.
"""

from __future__ import annotations

import re

PAD, START, UNKNOWN = 0, 1, 2
_SPECIAL = 3
_PIECES = re.compile(r"[^\W\d_\u4e00-\u9fff]+(?:'[^\W\d_]+)?|[\u4e00-\u9fff]|\d+|\"")


class WordTokenizer:
    """vocabulary: distinct lower-case words. context_length: tokens per caption, start and end included."""

    def __init__(self, vocabulary: tuple[str, ...], context_length: int) -> None:
        if len(set(vocabulary)) != len(vocabulary):
            raise ValueError("vocabulary: a word appears twice")
        self.context_length = context_length
        self.ids = {word: index + _SPECIAL for index, word in enumerate(vocabulary)}
        self.end = len(vocabulary) + _SPECIAL
        self.size = self.end + 1

    def pieces(self, text: str) -> list[str]:
        """The words and characters of `text`, known or not."""
        return _PIECES.findall(re.sub("[“”„«»「」]", '"', text.lower()))

    def unknown(self, text: str) -> list[str]:
        """The pieces of `text` that are not in the vocabulary, each once, in order."""
        return list(dict.fromkeys(piece for piece in self.pieces(text) if piece not in self.ids))

    def dropped(self, text: str) -> str:
        """What does not fit into the context, "" if all does."""
        rest = self.pieces(text)[self.context_length - 2 :]
        return "".join(rest) if rest and all("\u4e00" <= piece <= "\u9fff" for piece in rest) else " ".join(rest)

    def encode(self, text: str) -> list[int]:
        """Ids, padded to the context length; an over-long text is cut."""
        body = [self.ids.get(piece, UNKNOWN) for piece in self.pieces(text)][: self.context_length - 2]
        ids = [START, *body, self.end]
        return ids + [PAD] * (self.context_length - len(ids))
