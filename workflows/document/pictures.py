"""The graph in a picture's metadata, as ComfyUI, `unclip run` and Save Animation write it.

In a PNG it is a text chunk named `workflow` or `prompt`. In a WebP it is a text `workflow:{...}` or `prompt:{...}` of
the EXIF block, a TIFF without a picture. That block is read here: Pillow would decode the animation to get there, and
copy a text as often as entries point to it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO

_KEYS = ("workflow", "prompt")  # the saved form first: the editor, too, opens that
_MAX_CHUNKS = 200_000  # of a file
_ASCII = 2  # a TIFF's type of texts
_ENTRY = 12  # bytes of one entry of a TIFF's directory


def text_in_png(file: BinaryIO, max_bytes: int) -> str:
    """The graph's JSON in a PNG read up to behind its signature. Raises ValueError when there is none.

    Pillow reads the text chunks, before and after the pixels, which are skipped; what is compressed may grow to its
    limit of 1 MB. A broken chunk ends the search.
    """
    from PIL.PngImagePlugin import PngStream, iTXt

    stream = PngStream(file)
    try:
        for _ in range(_MAX_CHUNKS):
            kind, place, length = stream.read()
            if kind == b"IEND":
                break
            if kind in (b"tEXt", b"zTXt", b"iTXt") and length <= max_bytes:
                stream.call(kind, place, length)
            else:
                file.seek(length, 1)
            file.seek(4, 1)  # the checksum
    except (SyntaxError, ValueError, OSError, struct.error):
        pass
    # Latin-1 by the PNG standard except in iTXt; some programs write UTF-8 everywhere.
    return _graph({k: str(v) if isinstance(v, iTXt) else _as_utf8(v) for k, v in stream.im_text.items() if k in _KEYS})


def text_in_webp(file: BinaryIO, max_bytes: int) -> str:
    """The graph's JSON in a WebP read up to behind its `RIFF....WEBP`. Raises ValueError when there is none."""
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            break
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"EXIF" and length <= max_bytes:
            return _graph(_named(file.read(length).removeprefix(b"Exif\0\0")))
        file.seek(length + length % 2, 1)
    return _graph({})


def _graph(found: Mapping[str, str]) -> str:
    for key in _KEYS:
        if key in found:
            return found[key]
    raise ValueError("is a picture without a graph in it; give one saved by ComfyUI or by unclip run")


def _as_utf8(text: str) -> str:
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return text


def _named(exif: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for start, end in _places(exif):
        # Many entries may point to one large text: only a name's first is copied.
        name = exif[start : min(end, start + 32)].partition(b":")[0].decode("latin-1").lower()
        if name in _KEYS and name not in found:
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
