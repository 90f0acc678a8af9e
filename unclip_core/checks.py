"""Whether a value that a caller gave is a number, and one that can be meant: Python counts True and False among the
whole ones."""

from __future__ import annotations

import sys

MAX_COUNT = 4096  # items made of one: each has a generator of its own; the next are those of seed + MAX_COUNT
MAX_CANDIDATES = 64  # drawn for each item that is kept


def is_whole(value: object) -> bool:
    """Whether it is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether it is a number that a float can hold, neither infinite nor NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def check_count(who: str, name: str, value: int, most: int = MAX_COUNT) -> int:
    """A whole number from 1 to `most`, or ValueError."""
    if not is_whole(value) or not 1 <= value <= most:
        raise ValueError(f"{who}: {name} must be a whole number from 1 to {most}, got {value!r}")
    return value
