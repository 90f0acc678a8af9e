"""Words that a CLIP learns later (textual inversion, Gal et al. 2022).

They are found whole in captions, and their own embeddings take the place of a token's. No id and no row of the CLIP's
own table changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..config import ClipConfig
from .words import UNKNOWN, WordTokenizer


class NewWords:
    """rows: {word: token embedding (W,) float32}.

    Raises ValueError for what is no single word, for a word that the CLIP knows, and for a row of another width.
    """

    def __init__(self, config: ClipConfig, rows: Mapping[str, Tensor]) -> None:
        for word, row in rows.items():
            check_new_word(config, word)
            if row.shape != (config.text_width,):
                raise ValueError(
                    f"the embedding of the word {word!r} has shape {tuple(row.shape)}, but {config.clip_id} reads "
                    f"({config.text_width},); it was trained for another CLIP"
                )
        self.config = config
        self.rows = dict(rows)
        self.words = tuple(rows)
        # The CLIP's own tokenizer by whole words, as if they were the vocabulary's last.
        self.tokenizer = None
        if config.vocabulary:
            self.tokenizer = WordTokenizer((*config.vocabulary, *self.words), config.context_length)
        longest_first = sorted(map(re.escape, self.words), key=len, reverse=True)
        self._found = re.compile(rf"(?<!\w)({'|'.join(longest_first)})(?!\w)", re.IGNORECASE)

    def stacked(self) -> Tensor:
        """The embeddings (words, W) in the order of `words`."""
        return torch.stack(list(self.rows.values()))

    def by_words(self, captions: list[str], end: int) -> tuple[Tensor, Tensor]:
        """Ids (B, T) and places (B, T) for a tokenizer by whole words, whose end token is `end`.

        places: which of the new words stands there, -1 for none; its id is the unknown word's.
        """
        ids = torch.tensor([self.tokenizer.encode(caption) for caption in captions])
        first = self.tokenizer.ids[self.words[0]]
        places = torch.where((ids >= first) & (ids < self.tokenizer.end), ids - first, -1)
        ids = torch.where(ids == self.tokenizer.end, end, ids)
        return torch.where(places >= 0, UNKNOWN, ids), places

    def by_byte_pairs(self, captions: list[str], tokenizer) -> tuple[Tensor, Tensor]:
        """As `by_words` for open_clip's byte pairs; a new word's id is 0. Raises ValueError for another tokenizer."""
        length = self.config.context_length
        if not all(hasattr(tokenizer, name) for name in ("encode", "sot_token_id", "eot_token_id")):
            raise ValueError(
                f"CLIP {self.config.clip_id}: its tokenizer takes no new words; leave out {self.words[0]!r}"
            )
        ids, places = torch.zeros(len(captions), length, dtype=torch.long), torch.full((len(captions), length), -1)
        for row, caption in enumerate(captions):
            tokens, new = [tokenizer.sot_token_id], [-1]
            for index, piece in enumerate(self._found.split(caption)):  # text, word, text, word, ...
                word = index % 2 == 1
                found = [0] if word else tokenizer.encode(piece)
                tokens += found
                new += [self.words.index(piece.lower())] if word else [-1] * len(found)
            tokens, new = [*tokens[: length - 1], tokenizer.eot_token_id], [*new[: length - 1], -1]
            ids[row, : len(tokens)], places[row, : len(new)] = torch.tensor(tokens), torch.tensor(new)
        return ids, places


def check_new_word(config: ClipConfig, word: str) -> None:
    """Raises ValueError for what is no single lower-case word, or one that a small vocabulary has already."""
    # In scripts without spaces a word of several characters could not be told from its neighbours.
    if not re.fullmatch(r"[^\W\u3040-\u30ff\u4e00-\u9fff](?:[\w-]*\w)?", word) or word != word.lower():
        raise ValueError(f"the word {word!r} must be one lower-case word, such as sks_cup: letters, digits, _ and -")
    if word in config.vocabulary:
        raise ValueError(
            f"the word {word!r} is in the vocabulary of {config.clip_id} already; choose another, as sks_{word}"
        )
