"""Image embeddings of a whole training set, computed once and kept beside it.

CLIP sees the pictures as it does when pictures are made: whole, at its own size, and not the decoder's small copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import weakref
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..clip.model import Clip
from ..clip.preprocessing import preprocess
from ..disk import one_at_a_time, reserve, write_text
from ..runtime.device import pick_dtype
from ..runtime.placement import Placed
from .data import Data, Tick
from .sources.pairs import EmbeddingPairs

SAVE_EVERY = 64  # batches


_fingerprints: weakref.WeakKeyDictionary[Placed, str] = weakref.WeakKeyDictionary()


def clip_fingerprint(clip: Clip) -> str:
    """Short hash of the weights, of the image tower's where the towers are apart: another CLIP, another cache. Worked
    out once for each network."""
    if clip.placed not in _fingerprints:
        digest = hashlib.sha256()
        for name, value in sorted(clip.placed.in_memory().state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        _fingerprints[clip.placed] = digest.hexdigest()[:16]
    return _fingerprints[clip.placed]


def image_embeddings(
    clip: Clip,
    data: Data,
    folder: Path,
    batch: int = 256,
    progress: Tick | None = None,
) -> Tensor:
    """(N, D) float32 on the native scale, for every row of `data`; cached in `folder`, and taken up there after a kill.

    Embeddings that are data themselves are returned as they are. Raises ValueError for those of another CLIP.
    """
    if isinstance(data, EmbeddingPairs):
        return _given(clip, data)
    path = folder / f"embeddings-{len(data)}-{data.state}-{clip_fingerprint(clip)}.npy"
    if not path.exists():
        with one_at_a_time(folder / "lock"):  # two that write one file would each spoil the other's rows
            if not path.exists():
                _compute(clip, data, path, batch, progress)
    return torch.from_numpy(np.load(path))


def _compute(clip: Clip, data: Data, path: Path, batch: int, progress) -> None:
    partial, counter = path.with_suffix(".partial.npy"), path.with_suffix(".done")
    done = int(counter.read_text()) if partial.exists() and counter.exists() else 0  # there only beside whole rows
    shape = (len(data), clip.config.embed_dim)
    out = np.lib.format.open_memmap(partial, "r+" if done else "w+", None if done else np.float32, shape)
    reserve(partial, partial.stat().st_size)
    for index, start in enumerate(range(done, len(data), batch)):
        rows = list(range(start, min(start + batch, len(data))))
        out[start : start + len(rows)] = embed_rows(clip, data, rows, fast=True).numpy()
        if progress:
            progress("encode pictures", rows[-1] + 1, len(data))
        if index % SAVE_EVERY == SAVE_EVERY - 1:
            out.flush()
            write_text(counter, str(rows[-1] + 1))
    out.flush()
    os.replace(partial, path)
    counter.unlink(missing_ok=True)


@torch.no_grad()
def embed_rows(clip: Clip, data: Data, rows: list[int], *, fast: bool = False) -> Tensor:
    """Image embeddings (N, D) float32 of some rows, native scale, on the CPU.

    fast: in the half precision that the device multiplies faster, whose 1e-3 of noise does not hurt training.
    """
    size = clip.image_size
    plain = [preprocess(data.whole(row, size), size, (0.0,) * 3, (1.0,) * 3) for row in rows]  # 0..1, middle square
    clip.placed.on_device()
    device = clip.device
    dtype = pick_dtype("auto", device) if fast else torch.float32
    with torch.autocast(device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext():
        return clip.embed_pixels(torch.cat(plain).to(device)).float().cpu()


def _given(clip: Clip, data: EmbeddingPairs) -> Tensor:
    config = clip.config
    if data.vectors.shape[1] != config.embed_dim:
        raise ValueError(
            f"--data {data.index.where}: the embeddings are {data.vectors.shape[1]}-d, but {config.clip_id} makes "
            f"{config.embed_dim}-d ones; give those that this CLIP made"
        )
    if data.normalised() and not config.normalised:
        raise ValueError(
            f"--data {data.index.where}: the embeddings have been normalised, but stages of {config.clip_id} read "
            "them with the norm that CLIP gave; write them again without normalising, or give the pictures"
        )
    return torch.nn.functional.normalize(data.vectors, dim=-1) if config.normalised else data.vectors
