"""One word for a source -> its rows."""

from __future__ import annotations

import os
from pathlib import Path

from ...storybook.captions import CHINESE
from ..data import Data, StorybookData, Tick
from .folder import index_folder
from .index import Index, joined
from .pairs import open_pairs, pair_files
from .pictures import PictureData
from .shards import index_shards, shard_paths

STORYBOOK = ("storybook", "storybook:")


def open_data(
    where: str,
    cache: Path,
    *,
    scenes: int = 60_000,
    seed: int = 1,
    swaps: bool = False,
    chinese: float = CHINESE,
    workers: int | None = None,
    progress: Tick | None = None,
) -> Data:
    """The rows of `where`: "storybook:" (`scenes` rendered ones; swaps and chinese: see StorybookData), a folder, .tar
    shards (or a glob of them), or a folder of clip-retrieval's embeddings.

    cache: the folder for what is made from the files. workers: processes that read pictures; None: one for each
    processor. progress: see PictureData. Raises ValueError where there is nothing to train on.
    """
    workers = workers or processors()
    if where in STORYBOOK:
        return StorybookData(cache / "storybook", scenes, seed, workers, swaps, chinese)
    if pair_files(Path(where)):
        return open_pairs(Path(where))
    return PictureData(open_index(where), cache, workers, progress)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_index(where: str) -> Index:
    """What a folder or shards list, without reading a picture. Raises ValueError where there is no such place."""
    path = Path(where).expanduser()
    if "://" in where or where.startswith("pipe:"):
        raise ValueError(f"--data {where}: shards are read from local disks only; download them first")
    if path.is_dir():
        shards, loose = sorted(path.glob("*.tar")), index_folder(path)
        return joined(where, index_shards(where, shards), loose) if shards else loose
    shards = shard_paths(str(path))
    if path.is_file() and path.suffix != ".tar":
        raise ValueError(f"--data {where}: one file, of which only a .tar shard can be read; give the folder it is in")
    if not shards:
        raise ValueError(
            f"--data {where}: no pictures found: there is no such folder or shard; give a folder of pictures with .txt "
            "captions, or .tar shards"
        )
    return index_shards(where, shards)
