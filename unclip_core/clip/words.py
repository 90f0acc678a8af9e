"""A tokenizer by whole words, for a CLIP with a small vocabulary of its own, and where such a vocabulary comes from.

English splits into words, Chinese and Japanese into characters, both kinds of double quotes become '"'; other
punctuation is not spoken. Ids: 0 padding, 1 start, 2 unknown, then the vocabulary, then the end, which is the largest
id so that open_clip's "argmax" pooling finds it. Pure Python.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from ..config import ClipConfig

PAD, START, UNKNOWN = 0, 1, 2
_SPECIAL = 3
_CHARACTERS = "\u3040-\u30ff\u4e00-\u9fff"  # scripts without spaces: kana, Chinese characters
_PIECE = rf"[^\W\d_{_CHARACTERS}]+(?:'[^\W\d_]+)?|[{_CHARACTERS}]|\d+|\""
_PIECES = re.compile(_PIECE)


class WordTokenizer:
    """vocabulary: distinct lower-case words. context_length: tokens per caption, start and end included.

    A word that captions would be cut through, as "sks_cup", is found whole. Raises ValueError for a word that is there
    twice or can never be found.
    """

    def __init__(self, vocabulary: tuple[str, ...], context_length: int) -> None:
        if len(set(vocabulary)) != len(vocabulary):
            raise ValueError("vocabulary: a word appears twice")
        if wrong := [word for word in vocabulary if not word or word != _plain(word) or re.search(r"\s", word)]:
            raise ValueError(f"vocabulary: {wrong[0]!r} is no lower-case word without spaces; captions never hold it")
        self.context_length = context_length
        self.ids = {word: index + _SPECIAL for index, word in enumerate(vocabulary)}
        self.end = len(vocabulary) + _SPECIAL
        self.size = self.end + 1
        whole = sorted((word for word in vocabulary if not _PIECES.fullmatch(word)), key=len, reverse=True)
        first = "".join(rf"(?<!\w){re.escape(word)}(?!\w)|" for word in whole)
        self._pieces = re.compile(first + _PIECE) if whole else _PIECES

    @classmethod
    def of(cls, config: ClipConfig) -> WordTokenizer:
        """The tokenizer of a CLIP with a vocabulary of its own."""
        return cls(config.vocabulary, config.context_length)

    def pieces(self, text: str) -> list[str]:
        """The words and characters of `text`, known or not."""
        return self._pieces.findall(_plain(text))

    def unknown(self, text: str) -> list[str]:
        """The pieces of `text` that are not in the vocabulary, each once, in order."""
        return list(dict.fromkeys(piece for piece in self.pieces(text) if piece not in self.ids))

    def dropped(self, text: str) -> str:
        """What does not fit into the context, "" if all does."""
        rest = self.pieces(text)[self.context_length - 2 :]
        return "".join(rest) if rest and all(re.match(f"[{_CHARACTERS}]", piece) for piece in rest) else " ".join(rest)

    def encode(self, text: str) -> list[int]:
        """Ids, padded to the context length; an over-long text is cut."""
        body = [self.ids.get(piece, UNKNOWN) for piece in self.pieces(text)][: self.context_length - 2]
        ids = [START, *body, self.end]
        return ids + [PAD] * (self.context_length - len(ids))


def _plain(text: str) -> str:
    return re.sub("[“”„«»「」]", '"', unicodedata.normalize("NFC", text).lower())


def count_words(captions: Iterable[str]) -> Counter[str]:
    """How often each word and character is said."""
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(_PIECES.findall(_plain(caption)))
    return counts


def most_frequent(counts: Counter[str], size: int) -> tuple[str, ...]:
    """The `size` most frequent words, most frequent first, ties in alphabetical order: the same for the same counts."""
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:size])
