"""Fitting the principal components of a CLIP's image embeddings on many pictures."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from torch import Tensor

from ..clip.model import Clip
from ..types import model_to_image
from .data import Data
from .files import FilesData

BATCH = 64


def embed_pictures(clip: Clip, data: Data) -> Generator[tuple[int, int], None, Tensor]:
    """Image embeddings (N, D) float32 of every row, native scale. Yields (done, of) and returns them."""
    found = []
    for start in range(0, len(data), BATCH):
        rows = list(range(start, min(start + BATCH, len(data))))
        found.append(clip.encode_image(picture_rows(clip, data, rows)).vector)
        yield rows[-1] + 1, len(data)
    return torch.cat(found)


def picture_rows(clip: Clip, data: Data, rows: list[int]) -> Tensor:
    """IMAGE of the rows, files at the size that this CLIP reads."""
    if not isinstance(data, FilesData):
        return model_to_image(data.pictures(rows))
    pixels = np.stack([np.asarray(data.picture(row, clip.image_size)) for row in rows])
    return torch.from_numpy(pixels).float() / 255.0
