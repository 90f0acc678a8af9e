"""What a source lists: its samples, what it could not list and why, and what tells it from another source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PICTURES = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
# Pictures to a person, but not to Pillow: named rather than overlooked.
UNREADABLE = {".heic", ".heif", ".jxl", ".svg", ".psd", ".exr", ".cr2", ".cr3", ".nef", ".arw", ".dng"}
CAPTION_KEYS = ("text", "caption", "captions", "prompt")  # in metadata files, the first that there is


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


@dataclass(frozen=True)
class CaptionFile:
    """A text with a caption a line, or a JSON object with one of CAPTION_KEYS."""

    span: Span
    is_json: bool = False

    def read(self) -> tuple[str, ...]:
        """The captions. Raises ValueError for what is neither UTF-8 nor UTF-16 text, or no such object."""
        content = self.span.read()
        try:
            wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
            text = content.decode("utf-16" if wide else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 text ({error.reason}); save the caption as UTF-8") from None
        if not self.is_json:
            return lines_of(text)
        try:
            found = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"not JSON ({error})") from None
        if not isinstance(found, dict):
            raise ValueError(f"JSON, but no object: {str(found)[:40]}")
        return captions_of(found)


@dataclass(frozen=True)
class Sample:
    """A picture and what is said of it. name: as people find it. captions: read already, in a file, or None."""

    name: str
    picture: Span
    captions: tuple[str, ...] | CaptionFile | None

    def read_captions(self) -> tuple[str, ...]:
        """All captions, () where there is none. Raises ValueError for a file that cannot be read as text."""
        if isinstance(self.captions, CaptionFile):
            try:
                return self.captions.read()
            except OSError as error:
                raise ValueError(str(error)) from None
        return self.captions or ()


@dataclass(frozen=True)
class Index:
    """samples: in a fixed order. skipped: (name, reason). files: (name, bytes, mtime in ns) of all that was read."""

    where: str
    samples: tuple[Sample, ...]
    skipped: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, int, int], ...]

    @cached_property
    def identity(self) -> str:
        """The same for a source that was moved, another one once a file is added, removed or has another size."""
        return _digest((name, size) for name, size, _ in self.files)

    @cached_property
    def state(self) -> str:
        """Also another one once a file was written again: what caches go by."""
        return _digest(self.files)


def _digest(rows: Iterable[tuple]) -> str:
    digest = hashlib.sha256()
    for row in sorted(rows):
        digest.update(repr(row).encode())
    return digest.hexdigest()[:16]


def described(paths: Iterable[Path], root: Path) -> tuple[tuple[str, int, int], ...]:
    """(name below `root`, bytes, mtime) of files, for `Index.files`."""
    found = []
    for path in paths:
        stat = path.stat()
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        found.append((name, stat.st_size, stat.st_mtime_ns))
    return tuple(found)


def joined(where: str, *parts: Index) -> Index:
    """Several indices as one."""
    samples, skipped, files = (
        tuple(row for part in parts for row in getattr(part, name)) for name in ("samples", "skipped", "files")
    )
    return Index(where, samples, skipped, files)


def lines_of(text: str) -> tuple[str, ...]:
    """The lines that say something."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def captions_of(row: dict) -> tuple[str, ...]:
    """The captions of a metadata row; () for one that is empty. Raises ValueError for a row without such a key."""
    key = next((key for key in CAPTION_KEYS if key in row), None)
    if key is None:
        raise ValueError(f"no caption under {', '.join(CAPTION_KEYS)}; it has {', '.join(map(str, row)) or 'nothing'}")
    value = row[key]
    texts = value if isinstance(value, list) else [value]
    if wrong := [text for text in texts if text is not None and not isinstance(text, str)]:
        raise ValueError(f"{key} is {wrong[0]!r}, no text")
    return tuple(text.strip() for text in texts if text and text.strip())
