"""The graph in a WebP, where ComfyUI and Save Animation put it: texts `prompt:{...}` and `workflow:{...}` of the EXIF
block, which is a TIFF without a picture."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

_ASCII = 2  # a TIFF's type of texts
_ENTRY = 12  # bytes of one entry of a TIFF's directory


def texts_in_webp(file: BinaryIO, names: tuple[str, ...], max_bytes: int, max_chunks: int) -> dict[str, str]:
    """The texts of these names, in a file read up to behind its `RIFF....WEBP`. A broken part has none."""
    for _ in range(max_chunks):
        head = file.read(8)
        if len(head) < 8:
            break
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"EXIF" and length <= max_bytes:
            return _named(file.read(length).removeprefix(b"Exif\0\0"), names)
        file.seek(length + length % 2, 1)
    return {}


def _named(exif: bytes, names: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for start, end in _places(exif):
        # Many entries may point to one large text: only a name's first is copied.
        name = exif[start : min(end, start + 32)].partition(b":")[0].decode("latin-1").lower()
        if name in names and name not in found:
            found[name] = exif[start + len(name) + 1 : end].decode("utf-8", "replace")
    return found


def _places(exif: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of every text in the first directory."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return
    (directory,) = struct.unpack_from(f"{order}I", exif, 4)
    if directory + 2 > len(exif):
        return
    (count,) = struct.unpack_from(f"{order}H", exif, directory)
    for place in range(directory + 2, directory + 2 + count * _ENTRY, _ENTRY):
        if place + _ENTRY > len(exif):
            return
        _, kind, length, start = struct.unpack_from(f"{order}HHII", exif, place)
        if kind == _ASCII and length > 4 and start + length <= len(exif):  # shorter ones stand in the entry itself
            yield start, start + length - 1  # the last byte is 0
