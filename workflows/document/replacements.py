"""Texts that the editor's page rewrites when one presses Run: `%...%` in file names, and dynamic prompts."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

SAVERS = {"SaveImage", "SaveVideo", "SaveAnimatedWEBP", "SaveWEBM", "SaveAudio", "SaveGLB", "SaveAnimatedPNG"}
SAVERS |= {"CLIPSave", "VAESave", "ModelSave", "LoraSave", "SaveLatent"}
_PLACES = re.compile(r"%([^%]+)%")
_DATE_PARTS = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyy?y?")
_UNSAFE = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
_MAX_NESTING = 20  # of choices in a prompt


def fill_name(prefix: str, widget: Callable[[str, str], Any], now: datetime) -> str:
    """A saver's file name with `%date:yyyy-MM-dd%` and `%Node.widget%` filled in.

    `widget` gives the value of a node's widget, or raises KeyError. What is neither is left to the saver: `%width%`.
    """

    def fill(found: re.Match) -> str:
        parts = found[1].split(".")
        if len(parts) != 2:
            return _date(parts[0].removeprefix("date:"), now) if parts[0].startswith("date:") else found[0]
        try:
            return _UNSAFE.sub("_", _as_page_writes(widget(*parts)))
        except KeyError:
            return found[0]

    return _PLACES.sub(fill, prefix)


def _date(pattern: str, now: datetime) -> str:
    values = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(found: re.Match) -> str:
        text = found[0]
        if text in ("yy", "yyyy"):
            return str(now.year)[-len(text) :]
        return str(values[text[0]]).zfill(len(text)) if text[0] in values else text

    return _DATE_PARTS.sub(part, pattern)


def _as_page_writes(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def choose(text: str, pick: Callable[[list[str]], str] = random.choice) -> str:
    r"""A dynamic prompt as it is sent: comments gone, one of each `{a|b}` picked, `\{` a plain brace."""
    return _choose(_without_comments(text), pick, 0)


def _choose(text: str, pick: Callable[[list[str]], str], depth: int) -> str:
    if depth > _MAX_NESTING:
        return text
    result, place = [], 0
    while place < len(text):
        if text[place] == "\\":
            result.append(text[place : place + 2])
            place += 2
        elif text[place] == "{":
            options, place = _options(text, place + 1)
            result.append(_choose(pick(options), pick, depth + 1))
        else:
            result.append(text[place])
            place += 1
    return re.sub(r"\\([{}|])", r"\1", "".join(result))


def _options(text: str, place: int) -> tuple[list[str], int]:
    """The parts of the choice that starts at `place`, and the place after its brace."""
    options, start, depth = [], place, 0
    while place < len(text):
        char = text[place]
        if char == "\\":
            place += 1
        elif char == "}" and not depth:
            return [*options, text[start:place]], place + 1
        elif char == "|" and not depth:
            options.append(text[start:place])
            start = place + 1
        depth += (char == "{") - (char == "}")
        place += 1
    return [*options, text[start:]], place


def _without_comments(text: str) -> str:
    """Without `/* */`, and `//` to the end of the line; one pass, whatever the text."""
    kept, place = [], 0
    while (start := text.find("/", place)) >= 0:
        end = -1
        if text.startswith("/*", start) and (close := text.find("*/", start + 2)) >= 0:
            end = close + 2
        elif text.startswith("//", start):
            line = text.find("\n", start)
            end = len(text) if line < 0 else line
        kept.append(text[place : start if end >= 0 else start + 1])
        place = max(end, start + 1)
    return "".join([*kept, text[place:]])
