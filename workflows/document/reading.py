"""A workflow document out of a file: JSON text, or a picture with a graph in its metadata. Any file at all is an
answer or a ValueError, in bounded time and memory; what a document's parts look like is checked in `shapes.py`.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from .webp import texts_in_webp

MAX_BYTES = 16 * 2**20  # of JSON; the largest of the editor's own templates has 0.4 MB
MAX_PARTS = 2_000_000  # lists and objects
MAX_DEPTH = 100
MAX_CHUNKS = 200_000  # of a picture

_PNG = b"\x89PNG\r\n\x1a\n"
_GRAPH_KEYS = ("workflow", "prompt")  # the saved form first: the editor, too, opens that
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.S
)


def read_document(path: Path) -> Any:
    """The parsed JSON of a file, or of the graph inside a PNG or a WebP. Raises OSError, and ValueError saying what is
    wrong."""
    with path.open("rb") as file:
        start = file.read(12)
        if start.startswith(_PNG):
            file.seek(len(_PNG))
            text = _graph(_texts_in_png(file))
        elif start[:4] == b"RIFF" and start[8:] == b"WEBP":
            text = _graph(texts_in_webp(file, _GRAPH_KEYS, MAX_BYTES, MAX_CHUNKS))
        else:
            content = start + file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise ValueError(f"is larger than {MAX_BYTES >> 20} MB, as no workflow is; check the path")
            text = _decode(content)
    return parse(text)


def parse(text: str) -> Any:
    """JSON as Python's own, within limits of size and depth. NaN and infinities stay, for the checks of values."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES >> 20} MB, as no workflow is; check the path")
    if text.count("[") + text.count("{") > MAX_PARTS:
        raise ValueError(f"holds more than {MAX_PARTS:,} lists and objects; split the graph")
    if "\\ud" in text.lower():  # half a character has no place in any output
        text = _ESCAPE.sub(lambda found: r"\ufffd" if found[1] else found[0], text)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"is not valid JSON at {where}: {error.msg}; export it again from the editor") from None
    except ValueError:  # Python's limit on the digits of a whole number
        raise ValueError("holds a number of thousands of digits; export it again from the editor") from None
    except RecursionError:
        raise ValueError(_too_deep()) from None
    _check_depth(data)
    return data


def _too_deep() -> str:
    return f"is nested more than {MAX_DEPTH} deep; export it again from the editor"


def _check_depth(data: Any) -> None:
    level = [data]
    for _ in range(MAX_DEPTH):
        parts = [part for part in level if isinstance(part, dict | list)]
        if not parts:
            return
        level = [inner for part in parts for inner in (part.values() if isinstance(part, dict) else part)]
    raise ValueError(_too_deep())


def _decode(content: bytes) -> str:
    """Text of any Unicode encoding, with or without a mark: Windows tools write UTF-16."""
    try:
        return content.decode(json.detect_encoding(content)).removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise ValueError("is not text; give a workflow saved as JSON, or a PNG or WebP with a graph in it") from None


def _graph(found: dict[str, str]) -> str:
    """The text that ComfyUI and `unclip run` write into their pictures."""
    for key in _GRAPH_KEYS:
        if key in found:
            return found[key]
    raise ValueError("is a picture without a graph in it; give one saved by ComfyUI or by unclip run")


def _texts_in_png(file: BinaryIO) -> dict[str, str]:
    found: dict[str, str] = {}
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or kind == b"IEND":
            break
        if kind in (b"tEXt", b"zTXt", b"iTXt") and length <= MAX_BYTES:
            key, text = _text_chunk(kind, file.read(length))
            if key in _GRAPH_KEYS and text is not None:
                found.setdefault(key, text)
            file.seek(4, 1)
        else:
            file.seek(length + 4, 1)
    return found


def _text_chunk(kind: bytes, content: bytes) -> tuple[str, str | None]:
    """Key and text of a PNG's text chunk; no text when it is broken."""
    key, _, rest = content.partition(b"\0")
    name = key.decode("latin-1")
    try:
        if kind == b"tEXt":
            return name, _text(rest)
        if kind == b"zTXt":
            return name, _text(_inflate(rest[1:]))
        packed, (_, _, text) = rest[:1] == b"\1", _fields(rest[2:])
        return name, (_inflate(text) if packed else text).decode("utf-8")
    except (ValueError, zlib.error):
        return name, None


def _fields(rest: bytes) -> tuple[bytes, bytes, bytes]:
    """Language, translated key and text of an iTXt chunk."""
    language, _, rest = rest.partition(b"\0")
    translated, _, text = rest.partition(b"\0")
    return language, translated, text


def _text(content: bytes) -> str:
    """Latin-1 by the PNG standard; some programs write UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _inflate(content: bytes) -> bytes:
    machine = zlib.decompressobj()
    text = machine.decompress(content, MAX_BYTES)
    if machine.unconsumed_tail:
        raise ValueError("too large")
    return text
