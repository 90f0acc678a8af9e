"""XLM-R's tokenizer, from the tokenizer.json that comes with a model. The only module that imports `tokenizers`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


class MultilingualTokenizer:
    """Captions -> ids and mask. path: a tokenizer.json. length: tokens per caption, start and end included. padding:
    the id that fills captions up. The file is read on first use.
    """

    def __init__(self, path: Path, length: int, padding: int) -> None:
        self.path = path
        self.length = length
        self.padding = padding
        self._tokenizer = None

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ids (B, length) int64, mask (B, length) bool. Raises ValueError without the package, or for a wrong file."""
        encoded = self._read().encode_batch(list(captions))
        ids, mask = (torch.tensor([getattr(each, name) for each in encoded]) for name in ("ids", "attention_mask"))
        return ids, mask.bool()

    def _read(self):
        if self._tokenizer is None:
            try:
                from tokenizers import Tokenizer
            except ImportError:
                raise ValueError(
                    "Decoder Sample: this decoder reads captions by XLM-R, whose words need the package tokenizers; "
                    "`pip install tokenizers`, or unclip[multilingual]"
                ) from None
            try:
                tokenizer = Tokenizer.from_file(str(self.path))
            except Exception as error:  # whatever the library raises
                raise ValueError(
                    f"Decoder Sample: {self.path}: not a tokenizer ({error}); download the model's tokenizer.json again"
                ) from None
            tokenizer.enable_truncation(self.length)
            tokenizer.enable_padding(length=self.length, pad_id=self.padding)
            self._tokenizer = tokenizer
        return self._tokenizer
