"""Image embeddings of a whole training set, computed once and kept beside it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..clip.model import Clip
from ..types import model_to_image
from .data import Data

FINGERPRINT_ROWS = 64


def clip_fingerprint(clip: Clip) -> str:
    """Short hash of the image tower's weights: another CLIP, another cache."""
    digest = hashlib.sha256()
    for name, value in sorted(clip.network.visual.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def data_fingerprint(data: Data) -> str:
    """Short hash of rows spread over the data: other pictures, another cache."""
    rows = range(0, len(data), max(1, len(data) // FINGERPRINT_ROWS))
    return hashlib.sha256(data.pictures(list(rows)).contiguous().numpy().tobytes()).hexdigest()[:16]


def image_embeddings(clip: Clip, data: Data, folder: Path, batch: int = 256) -> Tensor:
    """(N, D) float32 on the native scale, for every row of `data`; cached in `folder`."""
    path = folder / f"embeddings-{len(data)}-{data_fingerprint(data)}-{clip_fingerprint(clip)}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with torch.autocast(clip.device.type, torch.bfloat16):  # twice as fast; 1e-3 of noise does not hurt training
            batches = (list(range(start, min(start + batch, len(data)))) for start in range(0, len(data), batch))
            found = [clip.encode_image(model_to_image(data.pictures(rows))).vector for rows in batches]
        partial = path.with_suffix(f".{os.getpid()}.npy")
        np.save(partial, torch.cat(found).numpy())
        os.replace(partial, path)
    return torch.from_numpy(np.load(path))
