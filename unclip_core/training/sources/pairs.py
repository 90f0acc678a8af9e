"""Image embeddings with captions and no pictures, as clip-retrieval writes them: what priors train on.

A folder with `img_emb/img_emb_0.npy` … (N, D) and `metadata/metadata_0.parquet` … with a caption for each row; the
files may also lie side by side, and the captions be `metadata_0.jsonl`. Parquet needs pyarrow.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from ..data import Unrelated
from .index import CAPTION_KEYS, Index, captions_of, described

UNIT = 1e-2  # norms this close to 1 are of normalised embeddings stored in half precision


def pair_files(folder: Path) -> list[tuple[Path, Path | None]]:
    """(embeddings, captions) of every part in `folder`, by number; [] for a folder of another kind."""
    arrays = {_number(path): path for place in (folder / "img_emb", folder) for path in place.glob("img_emb_*.npy")}
    metadata = [folder / "metadata", folder]
    found = []
    for number in sorted(arrays, key=lambda text: (len(text), text)):
        names = [place / f"metadata_{number}{suffix}" for place in metadata for suffix in (".parquet", ".jsonl")]
        found.append((arrays[number], next((path for path in names if path.exists()), None)))
    return found


def _number(path: Path) -> str:
    return re.sub(r"^img_emb_", "", path.stem)


def open_pairs(folder: Path) -> EmbeddingPairs:
    """Open such a folder. Raises ValueError where files of a part do not go together or nothing is left."""
    vectors, captions, skipped, files = [], [], [], []
    for array, texts in pair_files(folder):
        name = array.relative_to(folder).as_posix()
        files += [array, *([texts] if texts else [])]
        try:
            rows = np.load(array, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            skipped.append((name, f"no array of embeddings ({error})"))
            continue
        if rows.ndim != 2 or rows.dtype.kind != "f":
            skipped.append((name, f"an array of {rows.dtype} {rows.shape}, not floating-point (N, D)"))
            continue
        if vectors and rows.shape[1] != vectors[0].shape[1]:
            skipped.append((name, f"{rows.shape[1]}-d, where the parts before it are {vectors[0].shape[1]}-d"))
            continue
        said = _captions(texts) if texts else [()] * len(rows)
        if len(said) != len(rows):
            raise ValueError(f"--data {folder}: {name} has {len(rows)} rows, but {texts.name} {len(said)}")
        whole = np.asarray(rows, dtype=np.float32)
        good = np.isfinite(whole).all(1) & (np.abs(whole).max(1) > 0)
        skipped += [(f"{name}, row {row}", "no number, or all zeros") for row in np.flatnonzero(~good).tolist()]
        vectors.append(whole[good])
        captions += [each for each, fine in zip(said, good.tolist(), strict=True) if fine]
    if not captions:
        why = "".join(f"; {name}: {reason}" for name, reason in skipped[:3])
        raise ValueError(f"--data {folder}: no embeddings that can be read{why}")
    index = Index(str(folder), (), tuple(skipped), described(files, folder))
    return EmbeddingPairs(index, torch.from_numpy(np.concatenate(vectors)), captions)


def _captions(path: Path) -> list[tuple[str, ...]]:
    if path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        return [captions_of(json.loads(line)) for line in lines if line.strip()]
    try:
        from pyarrow import parquet
    except ImportError:
        raise ValueError(f"{path}: captions in Parquet need pyarrow; `pip install pyarrow`") from None
    table = parquet.read_table(path)
    key = next((key for key in CAPTION_KEYS if key in table.column_names), None)
    if key is None:
        raise ValueError(f"{path}: no caption under {', '.join(CAPTION_KEYS)}; it has {', '.join(table.column_names)}")
    return [captions_of({key: text}) for text in table.column(key).to_pylist()]


class EmbeddingPairs(Unrelated):
    """Rows of embeddings and captions; see `data.Data`. vectors: (N, D) float32, as they are in the files."""

    def __init__(self, index: Index, vectors: Tensor, captions: list[tuple[str, ...]]) -> None:
        self.index, self.vectors, self._captions = index, vectors, captions
        self.identity, self.state = index.identity, index.state

    def __len__(self) -> int:
        return len(self.vectors)

    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of everything in the source that is no row."""
        return list(self.index.skipped)

    def normalised(self) -> bool:
        """Whether all rows have unit norm, so that the norms that CLIP gave are lost."""
        return bool(((self.vectors.norm(dim=1) - 1).abs() < UNIT).all())

    def all_captions(self, row: int) -> tuple[str, ...]:
        return self._captions[row]

    def _no_pictures(self, *arguments: object, **options: object) -> NoReturn:
        """There are none: raises ValueError."""
        raise ValueError(
            f"--data {self.index.where}: these are embeddings without pictures, which only priors train on; give "
            "pictures for the other stages"
        )

    pictures = whole = crops = _no_pictures
