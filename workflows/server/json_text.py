"""JSON that a browser reads, whatever a node put into its results."""

from __future__ import annotations

import json
import math
from typing import Any

_MAX_TEXT = 200


def to_json(data: Any) -> str:
    """`data` as JSON. What JSON does not have becomes text, and NaN, which would stop the page, null."""
    try:
        return json.dumps(data, allow_nan=False)
    except (ValueError, TypeError):
        return json.dumps(_plain(data), allow_nan=False)


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
