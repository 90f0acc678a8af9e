"""Training data from files: pictures read once, kept small, and given out by row.

The first pass decodes every file: what cannot be decoded is no row, and is listed. The middle squares that training
asks for lie in a cache, one file for each size, under a name that changes with any file of the source.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...disk import reserve, whole_file, write_text
from ..data import Tick, Unrelated, to_model
from .decode import BadPicture, decode, square
from .index import Index, Sample

SIDE = 64  # of the squares that the first pass makes
FEWEST_SHARED = 64  # pictures, below which one process reads them all
FREE_SHARE = 0.5  # of the disk's free space that one size of the cache may take

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """What the first pass found: reason is why a picture is no row, "" for one that is."""

    width: int = 0
    height: int = 0
    notes: tuple[str, ...] = ()
    reason: str = ""


class PictureData(Unrelated):
    """Rows of a source's pictures that can be read; see `data.Data`. cache: the folder that the squares are kept in.

    progress: called during passes over all pictures. Raises ValueError for a source without a readable picture.
    """

    def __init__(self, index: Index, cache: Path, workers: int = 1, progress: Tick | None = None) -> None:
        self.index, self.workers, self.progress = index, workers, progress
        self.identity, self.state = index.identity, index.state
        self.folder = cache / "pictures" / self.state
        self.seen = self._first_pass()
        self.rows = [row for row, seen in enumerate(self.seen) if not seen.reason]
        self._squares: dict[int, np.ndarray | None] = {}
        if not self.rows:
            shown = "; ".join(f"{name}: {reason}" for name, reason in self.skipped()[:3])
            raise ValueError(
                f"--data {index.where}: no pictures found{f' that can be read ({shown})' if shown else ''}; give a "
                "folder of pictures with .txt captions, or .tar shards"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, row: int) -> Sample:
        """The row's files."""
        return self.index.samples[self.rows[row]]

    def size(self, row: int) -> tuple[int, int]:
        """(width, height) of a row's stored picture."""
        seen = self.seen[self.rows[row]]
        return seen.width, seen.height

    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of everything in the source that is no row."""
        bad = [(self.index.samples[row].name, seen.reason) for row, seen in enumerate(self.seen) if seen.reason]
        return [*self.index.skipped, *bad]

    def pictures(self, rows: list[int], side: int = SIDE) -> Tensor:
        kept = self._kept(side)
        if kept is not None:
            return to_model(kept[[self.rows[row] for row in rows]])
        return to_model(np.stack([np.asarray(square(self._read(row, side), side)) for row in rows]))

    def whole(self, row: int, side: int) -> Tensor:
        return torch.from_numpy(np.array(self._read(row, side)))[None].float() / 255.0

    def all_captions(self, row: int) -> tuple[str, ...]:
        try:
            return self.sample(row).read_captions()
        except ValueError:  # cannot be read, which the survey lists
            return ()

    def crops(self, rows: list[int], rng: random.Random, picture: int, crop: int) -> tuple[Tensor, Tensor]:
        room = (picture - crop) // 4
        kept = self._kept(picture)
        cut, corners = [], []
        for row in rows:
            left, top = rng.randint(0, room) * 4, rng.randint(0, room) * 4
            corners.append((left, top))
            if kept is None:
                whole = square(self._read(row, picture), picture)
                cut.append(np.asarray(whole.crop((left, top, left + crop, top + crop))))
            else:
                cut.append(kept[self.rows[row], top : top + crop, left : left + crop])
        return to_model(np.stack(cut)).contiguous(memory_format=torch.channels_last), torch.tensor(corners)

    def _read(self, row: int, side: int):
        """A row's whole picture, with no more pixels than `side` needs. Raises ValueError if it has changed."""
        sample = self.sample(row)
        try:
            return decode(sample.picture.read(), side).image
        except (BadPicture, OSError) as error:
            raise ValueError(f"{sample.name}: could be read before, now it cannot: {error}; start anew") from None

    def _first_pass(self) -> list[Seen]:
        """What every sample is, from the cache, or by decoding all of them, which also makes the small squares."""
        listed = self.folder / "seen.json"
        if listed.exists():
            rows = json.loads(listed.read_text(encoding="utf-8"))
            return [Seen(**{**row, "notes": tuple(row["notes"])}) for row in rows]
        if not self.index.samples:
            return []
        seen = self._make_squares(SIDE, "read pictures")
        write_text(listed, json.dumps([asdict(each) for each in seen]))
        return seen

    def _kept(self, side: int) -> np.ndarray | None:
        """(N, side, side, 3) uint8, memory-mapped, a row for each sample; None where the disk has no room for it."""
        if side not in self._squares:
            path = self.folder / f"{side}.npy"
            if not path.exists():
                needed = len(self.seen) * side * side * 3
                if needed > FREE_SHARE * shutil.disk_usage(_existing(self.folder)).free:
                    log.warning(
                        "%d pictures of %d px would take %.1f GB in %s, more than half of what is free there: they are "
                        "read from their files at every step, which is slower",
                        *(len(self.rows), side, needed / 1e9, self.folder),
                    )
                    self._squares[side] = None
                    return None
                self._make_squares(side, f"resize pictures to {side} px")
            self._squares[side] = np.load(path, mmap_mode="r")
        return self._squares[side]

    def _make_squares(self, side: int, label: str) -> list[Seen]:
        samples = self.index.samples
        with whole_file(self.folder / f"{side}.npy") as temporary:
            np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(samples), side, side, 3)).flush()
            reserve(temporary, temporary.stat().st_size)
            seen = []
            for found in _each(samples, temporary, self.workers):
                seen.append(found)
                if self.progress:
                    self.progress(label, len(seen), len(samples))
        return seen


def _each(samples: tuple[Sample, ...], path: Path, workers: int) -> Iterator[Seen]:
    """What each sample is; its square goes into the array at `path`. Workers write there themselves: what they would
    send here would pile up in memory where they are faster."""
    if workers <= 1 or len(samples) < FEWEST_SHARED:
        _open_squares(path)
        yield from map(_one, enumerate(samples))
        return
    context = get_context("fork" if "fork" in get_all_start_methods() else None)
    with context.Pool(workers, _open_squares, (path,)) as pool:
        yield from pool.imap(_one, enumerate(samples), chunksize=16)


_squares: dict[str, np.ndarray] = {}  # "out": what this process writes to


def _open_squares(path: Path) -> None:
    _squares["out"] = np.load(path, mmap_mode="r+")


def _one(job: tuple[int, Sample]) -> Seen:
    (row, sample), out = job, _squares["out"]
    try:
        found = decode(sample.picture.read(), out.shape[1])
        out[row] = np.asarray(square(found.image, out.shape[1]))
    except (BadPicture, OSError) as error:
        return Seen(reason=str(error))
    return Seen(found.width, found.height, found.notes)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
