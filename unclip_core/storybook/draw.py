"""Draws a scene with Pillow, antialiased by drawing at a few times the size needed and averaging down.

A crop is drawn as such: a 256 px window of the 1024 px picture costs what a 256 px picture costs.
"""

from __future__ import annotations

import random
from functools import lru_cache
from math import cos, pi, radians, sin

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .scenes import Scene, Thing
from .shapes import INK, ellipse, parts

RGB = tuple[int, int, int]

COLOUR_RGB: dict[str, RGB] = {
    "red": (218, 38, 44),
    "orange": (244, 128, 26),
    "yellow": (250, 214, 44),
    "green": (56, 160, 66),
    "blue": (42, 92, 214),
    "purple": (128, 56, 172),
    "pink": (250, 142, 188),
    "white": (248, 248, 246),
}
OUTLINE = 0.011  # half the ink line's width, of the picture's side


class Canvas:
    """A window of the unit square, `pixels` wide, with helpers that take coordinates in 0..1."""

    def __init__(self, pixels: int, window: tuple[float, float, float]) -> None:
        self.left, self.top, side = window
        self.scale = pixels / side
        self.pixels = pixels
        self.image = Image.new("RGB", (pixels, pixels))
        self.ink = ImageDraw.Draw(self.image)

    def at(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        """Unit coordinates -> pixels of this window."""
        return [((x - self.left) * self.scale, (y - self.top) * self.scale) for x, y in points]

    def polygon(self, points: list[tuple[float, float]], fill: RGB) -> None:
        """A filled polygon."""
        self.ink.polygon(self.at(points), fill=fill)

    def outline(self, points: list[tuple[float, float]], half_width: float, fill: RGB = INK) -> None:
        """A closed line with round joints."""
        placed = self.at([*points, *points[:2]])
        self.ink.line(placed, fill=fill, width=max(1, round(2 * half_width * self.scale)), joint="curve")

    def gradient(self, top: RGB, bottom: RGB, start: float = 0.0, stop: float = 1.0) -> None:
        """Vertical blend over the rows start..stop of the picture."""
        rows = (np.arange(self.pixels) + 0.5) / self.scale + self.top
        inside = np.flatnonzero((rows >= start) & (rows <= stop))
        if not inside.size:
            return
        share = ((rows[inside] - start) / (stop - start))[:, None]
        colours = np.asarray(top) * (1 - share) + np.asarray(bottom) * share
        strip = Image.fromarray(colours.round().astype(np.uint8)[:, None, :])
        self.image.paste(strip.resize((self.pixels, inside.size), Image.Resampling.NEAREST), (0, int(inside[0])))


def render(
    scene: Scene, size: int, window: tuple[float, float, float] = (0.0, 0.0, 1.0), oversample: int = 4
) -> np.ndarray:
    """Draw `scene` as (size, size, 3) uint8. window: (left, top, side) of the part wanted, in 0..1."""
    canvas = Canvas(size * oversample, window)
    BACKGROUND_PAINTERS[scene.background](canvas, random.Random(scene.seed))
    for thing in scene.things:
        _draw_thing(canvas, thing)
    if scene.word:
        _draw_word(canvas, scene.things[0], scene.word)
    return np.asarray(canvas.image.reduce(oversample))


def _mix(colour: RGB, other: RGB, share: float) -> RGB:
    return tuple(round(a * (1 - share) + b * share) for a, b in zip(colour, other, strict=True))


def _draw_thing(canvas: Canvas, thing: Thing) -> None:
    main = COLOUR_RGB[thing.colour]
    main = (
        _mix(main, (255, 255, 255), 0.08 * thing.shade)
        if thing.shade > 0
        else _mix(main, (0, 0, 0), -0.08 * thing.shade)
    )
    roles = {"main": main, "dark": _mix(main, (20, 10, 30), 0.28), "light": _mix(main, (255, 255, 255), 0.45)}
    turn, half = radians(thing.angle), thing.width / 2
    placed = [
        (
            [
                (thing.x + half * (x * cos(turn) - y * sin(turn)), thing.y + half * (x * sin(turn) + y * cos(turn)))
                for x, y in points
            ],
            roles[role] if isinstance(role, str) else role,
        )
        for points, role in parts(thing.kind)
    ]
    for points, _ in placed:  # every part's ink first, so that lines remain only around the whole ...
        canvas.outline(points, OUTLINE)
    for points, fill in placed:  # ... and thin ones between parts of another colour
        if fill != main:
            canvas.outline(points, OUTLINE * 0.55)
        canvas.polygon(points, fill)


@lru_cache(maxsize=64)
def _font(pixels: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(pixels)


def _draw_word(canvas: Canvas, thing: Thing, word: str) -> None:
    """Letter `word` on a white card across the middle of `thing`."""
    width, height = min(0.9, 0.115 * len(word) + 0.14), 0.24
    left, top = thing.x - width / 2, thing.y - height / 2 + 0.09
    card = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    canvas.outline(card, OUTLINE)
    canvas.polygon(card, (252, 252, 250))
    font = _font(max(1, round(0.21 * canvas.scale)))
    box = font.getbbox(word)
    glyphs = Image.new("L", (max(1, round(box[2] - box[0])), max(1, round(box[3] - box[1]))))
    ImageDraw.Draw(glyphs).text((-box[0], -box[1]), word, fill=255, font=font)
    room = round((width - 0.08) * canvas.scale)
    glyphs = glyphs.resize((min(room, round(glyphs.width * 1.15)), glyphs.height), Image.Resampling.BILINEAR)
    (x, y), *_ = canvas.at([(thing.x, top + height / 2)])
    canvas.image.paste(INK, (round(x - glyphs.width / 2), round(y - glyphs.height / 2)), glyphs)


def _disc(canvas: Canvas, x: float, y: float, radius: float, fill: RGB, squash: float = 1.0) -> None:
    canvas.polygon(ellipse(x, y, radius, radius * squash, points=20), fill)


def _hills(canvas: Canvas, rng: random.Random, level: float, height: float, fill: RGB) -> None:
    phase, waves = rng.uniform(0, 2 * pi), rng.uniform(0.8, 1.5)
    ridge = [(i / 32, level - height * sin(2 * pi * waves * i / 32 + phase)) for i in range(33)]
    canvas.polygon([(0.0, 1.1), *ridge, (1.0, 1.1)], fill)


def _night_sky(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient((10, 12, 44), (44, 44, 104))
    for _ in range(34):
        _disc(
            canvas,
            rng.random(),
            rng.random(),
            rng.uniform(0.006, 0.015),
            rng.choice([(255, 250, 220), (220, 226, 255)]),
        )


def _blue_sky(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient((86, 170, 238), (176, 220, 250))
    for _ in range(4):
        x, y, size = (
            rng.random(),
            rng.choice([rng.uniform(0.06, 0.3), rng.uniform(0.7, 0.94)]),
            rng.uniform(0.05, 0.085),
        )
        for dx, dy, part in ((-1.2, 0.2, 0.8), (0.0, -0.2, 1.1), (1.2, 0.15, 0.9), (2.1, 0.35, 0.6)):
            _disc(canvas, x + dx * size, y + dy * size, part * size, (250, 252, 255), 0.8)


def _meadow(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient((190, 226, 244), (226, 240, 226))
    _hills(canvas, rng, 0.36, 0.05, (146, 196, 92))
    _hills(canvas, rng, 0.56, 0.04, (112, 176, 72))
    for _ in range(40):
        x, y, tall = rng.random(), rng.uniform(0.6, 1.0), rng.uniform(0.03, 0.05)
        canvas.polygon([(x - 0.008, y), (x + rng.uniform(-0.012, 0.012), y - tall), (x + 0.008, y)], (66, 132, 48))


def _sea(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient((206, 234, 242), (240, 244, 232), 0.0, 0.3)
    canvas.gradient((30, 128, 168), (10, 66, 116), 0.3, 1.0)
    for row in range(6):
        y, phase, tone = 0.37 + row * 0.115, rng.random(), _mix((120, 206, 220), (52, 136, 176), row / 6)
        for i in range(-1, 5):
            x = (i + phase) * 0.25
            canvas.polygon(
                [*ellipse(x, y, 0.085, 0.03, 180, 360, 12), *ellipse(x, y + 0.004, 0.085, 0.012, 360, 180, 12)], tone
            )


def _desert(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient((250, 206, 140), (254, 236, 196))
    _hills(canvas, rng, 0.42, 0.06, (232, 190, 118))
    _hills(canvas, rng, 0.62, 0.05, (218, 168, 92))
    _hills(canvas, rng, 0.84, 0.04, (200, 146, 74))
    for _ in range(24):
        _disc(canvas, rng.random(), rng.uniform(0.66, 1.0), 0.007, (168, 118, 58))


def _snow(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient((142, 158, 182), (196, 206, 220))
    _hills(canvas, rng, 0.5, 0.05, (224, 232, 240))
    _hills(canvas, rng, 0.72, 0.04, (242, 246, 250))
    for _ in range(46):
        _disc(canvas, rng.random(), rng.random(), rng.uniform(0.008, 0.015), (255, 255, 255))


BACKGROUND_PAINTERS = {
    "night sky": _night_sky,
    "blue sky": _blue_sky,
    "meadow": _meadow,
    "sea": _sea,
    "desert": _desert,
    "snow": _snow,
}
