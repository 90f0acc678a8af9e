"""Tables and sizes as the commands print them."""

from __future__ import annotations

from collections.abc import Sequence

from ...unclip_core.texts import one_line
from ..terminal import echo


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Rows of cells under each other, the first one the head; the last column is not padded."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        echo("  ".join([*cells, row[-1]]).rstrip())


def size_text(count: int) -> str:
    """A number of bytes for people."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
