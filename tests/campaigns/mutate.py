"""Files changed at random, from a seed: JSON by its parts, everything else by its bytes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

DEEP = "[" * 600 + "]" * 600
TEXTS = (
    "",
    "x" * 5000,
    "\x1b[2J",
    "a\nb",
    "\ud800",
    "../../etc/passwd",
    "/dev/zero",
    "CON",
    "a\0b",
    "红",
    "1e999",
    "NaN",
)
NUMBERS = (0, -1, 1, 2, 3, 7, 2**31, 2**63, 2**64, 10**40, 0.5, -0.0, 1e308, float("nan"), float("inf"))
VALUES = (None, True, False, [], {}, [[]], [1], {"a": 1}, ["1", 0], [None, None], [0, 0], {"__value__": [1]})


def odd(rng: random.Random, values: Sequence[Any] = ()) -> Any:
    """A value that nobody expects, as often as not one of `values`."""
    if values and rng.random() < 0.5:
        return copy.deepcopy(rng.choice(values))
    return copy.deepcopy(rng.choice(rng.choice((TEXTS, NUMBERS, NUMBERS, VALUES))))


def near(value: Any, rng: random.Random) -> Any:
    """A value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, value * 2, value // 2, -value, value * 1000, 2 ** rng.randrange(40)))
    if isinstance(value, float):
        return value * rng.choice((0.5, 2, -1, 1e6, 1e-6))
    if isinstance(value, str):
        return rng.choice((value + "x", value[:-1], value.upper(), value * 2, rng.choice(TEXTS)))
    return odd(rng)


def places(value: Any, limit: int = 3000) -> list[tuple[Any, Any]]:
    """(holder, key) of every part of a JSON value."""
    found, waiting = [], [value]
    while waiting and len(found) < limit:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])
    return found


def document(value: Any, rng: random.Random, most: int = 4, values: Sequence[Any] = ()) -> Any:
    """A copy of a JSON value with some parts deleted, replaced, doubled, renamed or taken from elsewhere. values: see
    `odd`."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, most)):
        if not (found := places(value)):
            break
        holder, key = rng.choice(found)
        action = rng.choice(("delete", "odd", "near", "near", "near", "double", "take", "wrap", "rename"))
        if action == "delete":
            del holder[key]
        elif action == "odd":
            holder[key] = odd(rng, values)
        elif action == "near":
            holder[key] = near(holder[key], rng)
        elif action == "double" and isinstance(holder, list):
            holder.extend(copy.deepcopy(holder[key]) for _ in range(rng.choice((1, 1, 50))))
        elif action == "take":
            other, other_key = rng.choice(found)
            holder[key] = copy.deepcopy(other.get(other_key) if isinstance(other, dict) else odd(rng))
        elif action == "rename" and isinstance(holder, dict):
            holder[rng.choice((*TEXTS, f"{key}x"))] = holder.pop(key)
        else:
            holder[key] = [holder[key]]
    return value


def text(value: Any, rng: random.Random, most: int = 4, values: Sequence[Any] = ()) -> bytes:
    """A changed document as JSON, now and then with a number or a depth that Python does not write. values: see
    `odd`."""
    found = json.dumps(document(value, rng, most, values))
    if rng.random() < 0.05 and "1" in found:
        at = rng.choice([index for index, letter in enumerate(found) if letter == "1"])
        found = found[:at] + rng.choice(("1" + "0" * 400, "1e999", DEEP, "1" * 5000)) + found[at + 1 :]
    return found.encode("utf-8", "surrogatepass")


def content(data: bytes, rng: random.Random, most: int = 4) -> bytes:
    """Bytes with some flipped, overwritten, cut out, doubled or put in."""
    data = bytearray(data)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(data) + 1)
        size = rng.choice((1, 1, 2, 4, 8, 40))
        action = rng.choice(("flip", "flip", "number", "number", "cut", "double", "fill", "end"))
        if action == "flip" and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif action == "number":
            number = rng.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, rng.randrange(2**31)))
            width = rng.choice((1, 2, 4))
            order = rng.choice(("little", "big"))
            data[at : at + width] = (number % 256**width).to_bytes(width, order)
        elif action == "cut":
            del data[at : at + size]
        elif action == "double":
            data[at:at] = bytes(data[at : at + size]) * rng.choice((1, 3, 1000))
        elif action == "fill":
            data[at : at + size] = bytes([rng.randrange(256)]) * size
        elif rng.random() < 0.2:
            del data[at:]
    return bytes(data)
