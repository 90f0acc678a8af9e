"""Text from a stranger's file, as a person reads it: on a terminal, in a log, in a message.

A file's text may hold line breaks that fake a line of ours, escape sequences that a terminal obeys, letters that turn
the direction of what follows, half characters that cannot be written, and megabytes. Whatever is shown of it goes
through here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

_MAX_LINE = 1000
_MAX_VALUE = 300


def printable(text: str) -> str:
    """The text as one line that holds only what can be seen: white space becomes a space, the rest its escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else repr(c)[1:-1] for c in text)


def one_line(text: str, longest: int = _MAX_LINE) -> str:
    """`printable`, of at most `longest` characters: the middle of a longer text is left out."""
    if len(text) > longest:
        tail = longest * 3 // 10
        text = f"{text[: longest - tail - 5]} ... {text[-tail:]}"
    return printable(text)


def shown(value: object) -> str:
    """A value of a file for a message: one short line, whatever it is."""
    try:
        text = " ".join(printable(repr(value)).split())
    except (RecursionError, ValueError):  # deeply nested, or a number of more digits than Python writes
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 3] + "..."


def first_few(names: Iterable[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON that a terminal shows as it stands: in every language's letters, the rest as JSON's escapes. What JSON does
    not have becomes text."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    # Line breaks of the indent aside, whatever is not printable stands inside of a text.
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
