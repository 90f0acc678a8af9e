"""Fitting the principal components of a CLIP's image embeddings on many pictures."""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor

from ..clip.model import Clip
from .data import Data
from .embeddings import embed_rows

BATCH = 64


def embed_pictures(clip: Clip, data: Data) -> Generator[tuple[int, int], None, Tensor]:
    """Image embeddings (N, D) float32 of every row, native scale. Yields (done, of) and returns them."""
    found = []
    for start in range(0, len(data), BATCH):
        rows = list(range(start, min(start + BATCH, len(data))))
        found.append(embed_rows(clip, data, rows))
        yield rows[-1] + 1, len(data)
    return torch.cat(found)
