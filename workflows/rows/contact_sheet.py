"""A sweep's pictures on one sheet, with the swept values along its edges."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...unclip_core.pictures.fonts import cut, font_for, width_of, wrapped
from ...unclip_core.pictures.opening import opened
from .jobs import Jobs

if TYPE_CHECKING:
    from PIL import Image as images

MAX_CELL = 256  # pixels a side; larger pictures are shrunk
_MAX_SIDE = 12_000  # pixels of the sheet
_GAP, _FONT = 8, 16
_INK, _PAPER, _EMPTY = (32, 32, 32), (255, 255, 255), (224, 224, 224)


@dataclass(frozen=True)
class Layout:
    """Which row's picture goes where: cells[y][x] is a row number, and the labels of the edges."""

    cells: list[list[int]]
    across: list[str]
    down: list[str]
    across_name: str
    down_name: str


def layout(jobs: Jobs) -> Layout:
    """The last axis goes across, the others down. A table goes down, each row labelled with its number and values."""
    outer, across = [[_label(value) for value in axis.values] for axis in jobs.axes[:-1]], [""]
    names = [axis.name for axis in jobs.axes]
    if jobs.axes:
        across = [_label(value) for value in jobs.axes[-1].values]
    if jobs.table:
        rows = enumerate(jobs.table, 1)
        outer.insert(0, [" · ".join([str(number), *map(_label, row.values())]) for number, row in rows])
        names.insert(0, "row · " + " · ".join(dict.fromkeys(name for row in jobs.table for name in row)))
    down = [" · ".join(labels) for labels in itertools.product(*outer)]
    cells = [[y * len(across) + x + 1 for x in range(len(across))] for y in range(len(down))]
    across_name = names.pop() if jobs.axes else ""
    return Layout(cells, across, down, across_name, " · ".join(names))


def draw(place: Layout, pictures: Mapping[int, Path]) -> images.Image:
    """The sheet as a picture. `pictures` are by row number; a row without one is a grey cell."""
    from PIL import Image, ImageDraw

    font = font_for("".join([*place.across, *place.down, place.across_name, place.down_name]), _FONT)
    rows, columns = len(place.cells), len(place.across)
    cell = min(MAX_CELL, _largest(pictures), (_MAX_SIDE - 400) // max(rows, columns) - _GAP)
    cell = max(cell, 16)
    left = max([width_of(font, text) for text in (*place.down, place.down_name)], default=0)
    left = min(left, 360) + 2 * _GAP if place.down_name else _GAP
    heads = [wrapped(font, text, cell) for text in place.across]
    line = _FONT + 4
    top = _GAP + line + max(len(head) for head in heads) * line + _GAP
    size = (left + columns * (cell + _GAP), top + rows * (cell + _GAP))
    size = (max(size[0], left + width_of(font, place.across_name) + _GAP), size[1])
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((left, _GAP), place.across_name, _INK, font)
    if place.down_name:
        pen.text((_GAP, top - _GAP - line), cut(font, place.down_name, left - 2 * _GAP), _INK, font)
    for x, head in enumerate(heads):
        for number, text in enumerate(head):
            pen.text((left + x * (cell + _GAP), _GAP + line * (1 + number)), text, _INK, font)
    for y, row in enumerate(place.cells):
        corner = top + y * (cell + _GAP)
        for number, text in enumerate(wrapped(font, place.down[y], left - 2 * _GAP)[: max(1, cell // line)]):
            pen.text((_GAP, corner + number * line), text, _INK, font)
        for x, number in enumerate(row):
            spot = (left + x * (cell + _GAP), corner)
            pen.rectangle((*spot, spot[0] + cell - 1, spot[1] + cell - 1), fill=_EMPTY)
            if number in pictures:
                _paste(sheet, pictures[number], spot, cell)
            else:
                pen.text((spot[0] + 4, spot[1] + 4), cut(font, "no picture", cell - 8), _INK, font)
    return sheet


def _paste(sheet: images.Image, path: Path, spot: tuple[int, int], cell: int) -> None:
    from PIL import Image

    with opened(path, str(path)) as file:
        picture = file.convert("RGB")
    picture.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    sheet.paste(picture, (spot[0] + (cell - picture.width) // 2, spot[1] + (cell - picture.height) // 2))


def _largest(pictures: Mapping[int, Path]) -> int:
    sides = [64]
    for path in itertools.islice(pictures.values(), 16):  # a sweep's pictures are of one size
        with opened(path, str(path)) as file:
            sides += file.size
    return max(sides)


def _label(value: Any) -> str:
    return " ".join(str(value).split()) or "(empty)"
