"""Line plots with error bars, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..pictures.drawing import INK, PAPER, TRACK
from ..pictures.fonts import font_for, width_of

COLOURS = ((31, 96, 180), (214, 84, 30), (40, 140, 70), (150, 60, 160), (180, 140, 20), (60, 60, 60))
WIDTH, HEIGHT, TEXT = 640, 400, 16
LEFT, RIGHT, TOP, BOTTOM = 74, 24, 40, 58


@dataclass(frozen=True)
class Point:
    """One point of a line; low and high, if any, are its interval. label: written beside it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Axis:
    """What a direction shows, over which range, and on which scale."""

    name: str
    low: float
    high: float
    log: bool = False
    percent: bool = False

    def place(self, value: float) -> float:
        """Share of the axis, 0..1 inside the range."""
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """About five round numbers; powers of two or so on a logarithmic scale."""
        if self.log:
            count = max(1, min(6, round(math.log2(self.high / self.low))))
            return [self.low * (self.high / self.low) ** (i / count) for i in range(count + 1)]
        step = 10 ** math.floor(math.log10((self.high - self.low) / 4))
        step = next(step * k for k in (1, 2, 5, 10) if (self.high - self.low) / (step * k) <= 6)
        first = math.ceil(self.low / step - 1e-9)
        return [step * i for i in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def text(self, value: float) -> str:
        """A tick's label."""
        return f"{value:.0%}" if self.percent else f"{value:.3g}"


def line_plot(
    lines: Mapping[str, Sequence[Point]],
    x: str,
    y: str,
    *,
    log_x: bool = False,
    percent: bool = False,
) -> Tensor:
    """IMAGE (1, 400, 640, 3): a line per name, with a legend. percent: y is 0..1. Raises ValueError without a point."""
    points = [point for line in lines.values() for point in line]
    if not points:
        raise ValueError(f"line_plot of {y!r}: there is no point to draw")
    across = _axis(x, [point.x for point in points], log=log_x)
    heights = [value for p in points for value in (p.y, p.low, p.high) if value is not None]
    up = Axis(y, 0.0, 1.0, percent=True) if percent else _axis(y, [0.0, *heights])
    picture = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen = ImageDraw.Draw(picture)
    _frame(pen, across, up)
    for line, colour in zip(lines.values(), COLOURS * 3, strict=False):
        _line(pen, line, across, up, colour)
    _legend(pen, list(lines))
    return torch.from_numpy(np.asarray(picture).copy())[None].float() / 255.0


def _axis(name: str, values: list[float], log: bool = False) -> Axis:
    low, high = min(values), max(values)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    return Axis(name, low, high if log else high + 0.05 * (high - low), log)


def _at(point: tuple[float, float], across: Axis, up: Axis) -> tuple[float, float]:
    inner = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
    return LEFT + across.place(point[0]) * inner[0], HEIGHT - BOTTOM - up.place(point[1]) * inner[1]


def _frame(pen: ImageDraw.ImageDraw, across: Axis, up: Axis) -> None:
    font = font_for(across.name + up.name, TEXT)
    for value in up.ticks():
        _, y = _at((across.low, value), across, up)
        pen.line((LEFT, y, WIDTH - RIGHT, y), TRACK)
        label = up.text(value)
        pen.text((LEFT - 8 - width_of(font, label), y - TEXT / 2), label, INK, font)
    for value in across.ticks():
        x, y = _at((value, up.low), across, up)
        label = across.text(value)
        pen.line((x, y, x, y + 4), INK)
        pen.text((x - width_of(font, label) / 2, y + 6), label, INK, font)
    pen.line((LEFT, TOP, LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM), INK)
    pen.text((WIDTH - RIGHT - width_of(font, across.name), HEIGHT - TEXT - 10), across.name, INK, font)
    pen.text((8, HEIGHT - TEXT - 10), up.name, INK, font)


def _line(
    pen: ImageDraw.ImageDraw, line: Sequence[Point], across: Axis, up: Axis, colour: tuple[int, int, int]
) -> None:
    places = [_at((point.x, point.y), across, up) for point in line]
    if len(places) > 1:
        pen.line(places, colour, 2)
    font = font_for("".join(point.label for point in line), TEXT - 3)
    for point, (x, y) in zip(line, places, strict=True):
        if point.low is not None and point.high is not None:
            top, bottom = _at((point.x, point.high), across, up)[1], _at((point.x, point.low), across, up)[1]
            pen.line((x, top, x, bottom), colour)
            for end in (top, bottom):
                pen.line((x - 3, end, x + 3, end), colour)
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), colour)
        if point.label:
            pen.text((x + 7, y - TEXT), point.label, colour, font)


def _legend(pen: ImageDraw.ImageDraw, names: list[str]) -> None:
    font, x = font_for("".join(names), TEXT), float(LEFT)
    for name, colour in zip(names, COLOURS * 3, strict=False):
        pen.rectangle((x, 14, x + 12, 26), colour)
        pen.text((x + 18, 11), name, INK, font)
        x += 18 + width_of(font, name) + 18
