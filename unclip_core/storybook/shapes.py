"""The objects' outlines: polygons in a unit box (-1..1, y down) with the role of each one's colour.

Roles: "main" (the object's colour), "dark" and "light" (shades of it), or a fixed RGB triple.
"""

from __future__ import annotations

from functools import cache
from math import cos, pi, sin

Point = tuple[float, float]
Part = tuple[list[Point], "str | tuple[int, int, int]"]

BROWN = (121, 78, 44)
CREAM = (250, 238, 214)
LEAF = (74, 150, 62)
INK = (38, 32, 44)
GLASS = (200, 228, 240)


def ellipse(
    x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0, points: int = 40
) -> list[Point]:
    """An elliptic arc as a polygon; angles in degrees, clockwise from three o'clock."""
    turns = [(start + (stop - start) * i / points) * pi / 180 for i in range(points + (stop - start != 360.0))]
    return [(x + rx * cos(turn), y + ry * sin(turn)) for turn in turns]


def box(left: float, top: float, right: float, bottom: float) -> list[Point]:
    """An upright rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _star() -> list[Part]:
    radii = (1.0, 0.45)
    spikes = [(radii[i % 2] * sin(i * pi / 5), 0.06 - radii[i % 2] * cos(i * pi / 5)) for i in range(10)]
    return [(spikes, "main")]


def _heart() -> list[Part]:
    turns = [2 * pi * i / 60 for i in range(60)]
    curve = [(sin(t) ** 3, -(13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)) / 16.5 - 0.1) for t in turns]
    return [(curve, "main"), (ellipse(-0.45, -0.42, 0.17, 0.12), "light")]


def _house() -> list[Part]:
    return [
        (box(-0.72, -0.12, 0.72, 0.95), "main"),
        ([(-0.98, -0.1), (0.0, -0.98), (0.98, -0.1)], "dark"),
        (box(-0.14, 0.38, 0.2, 0.95), BROWN),
        (box(-0.58, 0.1, -0.26, 0.42), GLASS),
        (box(0.32, 0.1, 0.6, 0.42), GLASS),
    ]


def _tree() -> list[Part]:
    return [
        (box(-0.14, 0.5, 0.14, 1.0), BROWN),
        ([(-0.86, 0.62), (0.0, -0.2), (0.86, 0.62)], "main"),
        ([(-0.68, 0.12), (0.0, -0.6), (0.68, 0.12)], "main"),
        ([(-0.5, -0.34), (0.0, -1.0), (0.5, -0.34)], "main"),
    ]


def _moon() -> list[Part]:
    outer = ellipse(-0.05, 0.0, 0.95, 0.95, 50, 310)
    inner = ellipse(0.33, 0.0, 0.78, 0.76, 292, 68)
    return [(outer + inner, "main")]


def _fish() -> list[Part]:
    return [
        ([(0.4, 0.0), (1.0, -0.52), (0.86, 0.0), (1.0, 0.52)], "dark"),
        ([(-0.2, -0.4), (0.12, -0.78), (0.35, -0.3)], "dark"),
        (ellipse(-0.2, 0.0, 0.78, 0.5), "main"),
        (ellipse(-0.56, -0.12, 0.12, 0.12), CREAM),
        (ellipse(-0.58, -0.12, 0.06, 0.06, points=16), INK),
    ]


def _boat() -> list[Part]:
    return [
        (box(-0.06, -0.95, 0.06, 0.4), BROWN),
        ([(0.1, -0.9), (0.8, 0.22), (0.1, 0.22)], "light"),
        ([(-0.1, -0.7), (-0.66, 0.22), (-0.1, 0.22)], CREAM),
        ([(-0.98, 0.36), (0.98, 0.36), (0.62, 0.92), (-0.62, 0.92)], "main"),
    ]


def _apple() -> list[Part]:
    turns = [2 * pi * i / 48 for i in range(48)]
    body = [
        (0.86 * sin(t) * (1 - 0.08 * cos(2 * t)), 0.16 - 0.78 * cos(t) + 0.2 * max(0.0, cos(t)) ** 8) for t in turns
    ]
    return [
        ([(-0.05, -0.35), (0.02, -0.95), (0.14, -0.92), (0.06, -0.35)], BROWN),
        ([(0.1, -0.6), (0.35, -0.95), (0.72, -0.86), (0.45, -0.58)], LEAF),
        (body, "main"),
        (ellipse(-0.42, -0.12, 0.13, 0.2), "light"),
    ]


def _flower() -> list[Part]:
    petals = [
        (ellipse(0.46 * cos(i * pi / 3), -0.32 + 0.46 * sin(i * pi / 3), 0.3, 0.3, points=24), "main") for i in range(6)
    ]
    return [
        (box(-0.06, 0.1, 0.06, 1.0), LEAF),
        ([(0.0, 0.8), (0.2, 0.42), (0.6, 0.4), (0.34, 0.72)], LEAF),
        *petals,
        (ellipse(0.0, -0.32, 0.27, 0.27), BROWN),
    ]


def _car() -> list[Part]:
    return [
        ([(-0.6, -0.02), (-0.36, -0.56), (0.34, -0.56), (0.62, -0.02)], "dark"),
        ([(-0.98, 0.02), (-0.86, -0.08), (0.86, -0.02), (0.98, 0.12), (0.98, 0.46), (-0.98, 0.46)], "main"),
        ([(-0.44, -0.08), (-0.28, -0.42), (-0.04, -0.42), (-0.04, -0.08)], GLASS),
        ([(0.08, -0.08), (0.08, -0.42), (0.27, -0.42), (0.44, -0.08)], GLASS),
        (ellipse(-0.52, 0.48, 0.25, 0.25, points=24), INK),
        (ellipse(0.52, 0.48, 0.25, 0.25, points=24), INK),
        (ellipse(-0.52, 0.48, 0.1, 0.1, points=16), CREAM),
        (ellipse(0.52, 0.48, 0.1, 0.1, points=16), CREAM),
    ]


def _mushroom() -> list[Part]:
    return [
        ([(-0.28, 0.1), (0.28, 0.1), (0.38, 0.92), (-0.38, 0.92)], CREAM),
        ([*ellipse(0.0, 0.12, 0.95, 1.0, 180, 360), (0.0, 0.2)], "main"),
        (ellipse(-0.42, -0.28, 0.17, 0.16), CREAM),
        (ellipse(0.12, -0.52, 0.19, 0.17), CREAM),
        (ellipse(0.52, -0.14, 0.14, 0.13), CREAM),
    ]


def _cup() -> list[Part]:
    ring = ellipse(0.5, 0.02, 0.46, 0.46, -90, 90) + ellipse(0.5, 0.02, 0.24, 0.24, 90, -90)
    return [
        (ring, "main"),
        ([(-0.85, -0.7), (0.6, -0.7), (0.44, 0.85), (-0.69, 0.85)], "main"),
        (ellipse(-0.125, -0.7, 0.725, 0.17), "dark"),
    ]


_MAKERS = {
    "star": _star,
    "heart": _heart,
    "house": _house,
    "tree": _tree,
    "moon": _moon,
    "fish": _fish,
    "boat": _boat,
    "apple": _apple,
    "flower": _flower,
    "car": _car,
    "mushroom": _mushroom,
    "cup": _cup,
}


@cache
def parts(kind: str) -> list[Part]:
    """The polygons of an object, back to front."""
    return _MAKERS[kind]()
