"""Training data from files: a folder of pictures with captions beside them, or WebDataset shards (.tar).

A sample is a picture and a text file of the same name (`0001.jpg`, `0001.txt`; a caption per line, one is picked).
Shards are indexed once by their headers and read by offset, so any row can be read at any time: exact resume.
"""

from __future__ import annotations

import glob
import io
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .data import to_model

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
SIZE = 64


@dataclass(frozen=True)
class Span:
    """Bytes of a file: size None is all of it."""

    path: Path
    offset: int = 0
    size: int | None = None

    def __str__(self) -> str:
        return str(self.path) if self.size is None else f"{self.path}, {self.size} bytes at {self.offset}"

    def read(self) -> bytes:
        """The bytes."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(-1 if self.size is None else self.size)


def index_folder(folder: Path) -> list[tuple[Span, Span | None]]:
    """(picture, caption) of every picture below `folder`, by name."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    texts = [path.with_suffix(".txt") for path in found]
    return [(Span(path), Span(text) if text.exists() else None) for path, text in zip(found, texts, strict=True)]


def index_shards(paths: list[Path]) -> list[tuple[Span, Span | None]]:
    """(picture, caption) of every sample in WebDataset shards, in their order."""
    samples: dict[tuple[Path, str], dict[str, Span]] = {}
    for path in paths:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                folder, _, name = member.name.rpartition("/")  # a sample's key ends at the first dot of the file's name
                key, _, suffix = name.partition(".")
                part = "picture" if f".{suffix.lower()}" in PICTURES else "caption" if suffix == "txt" else None
                if part and member.isfile():
                    span = Span(path, member.offset_data, member.size)
                    samples.setdefault((path, f"{folder}/{key}"), {})[part] = span
    return [(parts["picture"], parts.get("caption")) for parts in samples.values() if "picture" in parts]


def open_files(where: str) -> FilesData:
    """Open a folder, a shard, or a glob of shards (`shards/*.tar`). Raises ValueError if it holds no picture."""
    path = Path(where)
    if path.is_dir() and not any(path.glob("*.tar")):
        rows = index_folder(path)
    else:
        pattern = str(path / "*.tar") if path.is_dir() else where
        try:
            rows = index_shards([Path(name) for name in sorted(glob.glob(pattern))])
        except tarfile.TarError as error:
            raise ValueError(f"--data {where}: not an uncompressed .tar shard ({error})") from None
    if not rows:
        raise ValueError(
            f"--data {where}: no pictures found; give a folder of pictures with .txt captions, or .tar shards"
        )
    return FilesData(rows)


class FilesData:
    """Pictures and captions read as they are asked for. See `data.Data`."""

    def __init__(self, rows: list[tuple[Span, Span | None]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def picture(self, row: int, side: int) -> Image.Image:
        """The middle square of a row's picture, `side` px, upright, alpha flattened on white."""
        span = self.rows[row][0]
        try:
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(span.read()))).convert("RGBA")
        except OSError as error:
            raise ValueError(f"{span}: not a picture that can be read ({error}); remove or replace it") from None
        flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        return ImageOps.fit(flat, (side, side), Image.Resampling.BICUBIC)

    def pictures(self, rows: list[int]) -> Tensor:
        """See Data."""
        return to_model(np.stack([np.asarray(self.picture(row, SIZE)) for row in rows]))

    def captions(self, rows: list[int], rng: random.Random) -> list[str]:
        """See Data; a row without a text file has the empty caption."""
        return [self._caption(row, rng) for row in rows]

    def _caption(self, row: int, rng: random.Random) -> str:
        text = self.rows[row][1]
        if text is None:
            return ""
        try:
            lines = [line.strip() for line in text.read().decode("utf-8-sig").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{text}: not UTF-8 text ({error.reason}); save the caption as UTF-8") from None
        return rng.choice(lines) if lines else ""

    def alike(self, row: int, *, cousins: bool = False) -> list[int]:
        """See Data: files say nothing about each other."""
        return [row]

    def swaps(self, row: int) -> list[int]:
        """See Data."""
        return []

    def told(self, rows: list[int], rng: random.Random) -> tuple[list[str], Tensor]:
        """See Data: the same row, or the same words."""
        captions = self.captions(rows, rng)
        same = [[a == b or said == other for b, other in zip(rows, captions, strict=True)]
                for a, said in zip(rows, captions, strict=True)]  # fmt: skip
        return captions, torch.tensor(same)

    def crops(self, rows: list[int], rng: random.Random, picture: int, crop: int) -> Tensor:
        """See Data."""
        room = (picture - crop) // 4
        cut = []
        for row in rows:
            left, top = rng.randint(0, room) * 4, rng.randint(0, room) * 4
            cut.append(np.asarray(self.picture(row, picture).crop((left, top, left + crop, top + crop))))
        return to_model(np.stack(cut)).contiguous(memory_format=torch.channels_last)
