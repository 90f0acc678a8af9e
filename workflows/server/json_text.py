"""JSON between the page and the server: what a browser can read, whatever a node put into its results; and of what is
sent only what can be kept, sent on and read again."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

MAX_DEPTH = 100  # tables and lists inside each other; a graph's subgraphs and their values take some 15
_MAX_TEXT = 200


def to_json(data: Any) -> str:
    """`data` as JSON. What JSON does not have becomes text, and NaN, which would stop the page, null."""
    try:
        return json.dumps(data, allow_nan=False)
    except (ValueError, TypeError):
        return json.dumps(_plain(data), allow_nan=False)


def from_json(data: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError with the reason: no JSON; NaN or infinity, which Python's reader
    takes and browsers do not; deeper than MAX_DEPTH."""
    try:
        value = json.loads(data, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    inner = [value]
    for _ in range(MAX_DEPTH):
        inner = [item for outer in inner for item in _items(outer) if isinstance(item, dict | list)]
        if not inner:
            return value
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


def memory_of(value: Any) -> int:
    """Bytes that a value of tables, lists and texts takes in memory, at most: what occurs twice may be one object."""
    total, level = 0, [value]
    while level:
        total += sum(map(sys.getsizeof, level))
        level = [item for outer in level for item in _parts(outer)]
    return total


def _parts(value: Any) -> Any:
    return [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()


def _items(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _refuse(name: str) -> None:
    raise ValueError(f"it holds {name}, which JSON does not have")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text[:20]}, which is too large a number")
    return value


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    text = str(value)
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."
