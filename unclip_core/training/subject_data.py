"""A subject's pictures, with captions that say its word; and rows of two sources as one."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from .data import Data, Unrelated
from .sources.pictures import PictureData

MARK = "{}"  # in a sentence, for what it is about


class SubjectData(Unrelated):
    """A subject's pictures; every caption says the word.

    A picture without a caption is "a <word>"; in captions that only name the class, the word takes its place. Raises
    ValueError for a caption that says neither.
    """

    def __init__(self, pictures: PictureData, word: str, kind: str) -> None:
        self.pictures_of, self.word, self.kind = pictures, word, kind
        self.identity, self.state = pictures.identity, pictures.state
        self.said = [self._captions(row) for row in range(len(pictures))]

    def _captions(self, row: int) -> tuple[str, ...]:
        found = []
        for caption in self.pictures_of.all_captions(row) or (f"a {self.word}",):
            said, count = (caption, 1) if has_word(caption, self.word) else replaced(caption, self.kind, self.word)
            if not count:
                raise ValueError(
                    f"{self.pictures_of.sample(row).name}: its caption {caption!r} says neither {self.word!r} nor "
                    f"{self.kind!r}; write the word where the subject is, or remove the caption"
                )
            found.append(said)
        return tuple(found)

    def __len__(self) -> int:
        return len(self.said)

    def pictures(self, rows: list[int], side: int = 64) -> Tensor:
        return self.pictures_of.pictures(rows, side)

    def whole(self, row: int, side: int) -> Tensor:
        return self.pictures_of.whole(row, side)

    def all_captions(self, row: int) -> tuple[str, ...]:
        return self.said[row]

    def sentences(self) -> list[str]:
        """The captions with MARK where they name the subject, each once."""
        said = [replaced(caption, self.word, MARK)[0] for captions in self.said for caption in captions]
        return list(dict.fromkeys(said))

    def class_captions(self) -> list[str]:
        """What the same pictures would be called if they showed any of the class: "a <class>" first, each once."""
        said = [sentence.replace(MARK, self.kind) for sentence in self.sentences()]
        return list(dict.fromkeys([f"a {self.kind}", *said]))


class Chained(Unrelated):
    """The rows of one source, then those of another."""

    def __init__(self, first: Data, second: Data) -> None:
        self.first, self.second = first, second
        self.identity, self.state = (f"{getattr(first, x)}+{getattr(second, x)}" for x in ("identity", "state"))

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def pictures(self, rows: list[int], side: int = 64) -> Tensor:
        parts = [self._at(row) for row in rows]
        return torch.cat([data.pictures([row], side) for data, row in parts])

    def whole(self, row: int, side: int) -> Tensor:
        data, own = self._at(row)
        return data.whole(own, side)

    def all_captions(self, row: int) -> tuple[str, ...]:
        data, own = self._at(row)
        return data.all_captions(own)

    def _at(self, row: int) -> tuple[Data, int]:
        return (self.first, row) if row < len(self.first) else (self.second, row - len(self.first))


def has_word(caption: str, word: str) -> bool:
    """Whether the caption has the word as a whole."""
    return re.search(_whole(word), caption, re.IGNORECASE) is not None


def replaced(caption: str, word: str, other: str) -> tuple[str, int]:
    """The caption with `other` for every `word`, and how often that was."""
    return re.subn(_whole(word), other, caption, flags=re.IGNORECASE)


def _whole(word: str) -> str:
    return rf"(?<!\w){re.escape(word)}(?!\w)"
