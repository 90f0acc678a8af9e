"""Cards for graphs whose model does not come with the pack: drawn by hand what a person gets, as nothing can be run.

Pictures in which storybook's things appear are its renderer's, not a network's; the rest are a few shapes each. Used by
thumbnails.py. A graph whose caption holds none of the words in SUBJECTS gets a picture of its caption alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from comfyui_unclip.unclip_core.pictures.fonts import font_for, wrapped
from comfyui_unclip.unclip_core.storybook.draw import render
from comfyui_unclip.unclip_core.storybook.examples import EXAMPLES, example
from comfyui_unclip.unclip_core.storybook.scenes import Scene, Thing

SIDE = 400
GROUND, WORDS, FAINT = "#1c1e22", "#f0f0f0", "#a8acb4"
FINE = 4  # drawn larger, for smooth edges


def _canvas(size: int, paint: Callable[[ImageDraw.ImageDraw, Callable], None]) -> Image.Image:
    """A square picture; `paint` gets a pen and `at`, which turns numbers in 0..1 into its pixels."""
    picture = Image.new("RGB", (size * FINE, size * FINE))
    paint(ImageDraw.Draw(picture), lambda *numbers: [number * size * FINE for number in numbers])
    return picture.reduce(FINE)


def fisherman(size: int) -> Image.Image:
    def paint(pen, at):
        pen.rectangle(at(0, 0, 1, 1), "#7f97a8")
        pen.rectangle(at(0, 0.62, 1, 1), "#4f7186")
        for row in range(4):
            pen.arc(
                at(-0.1 + 0.13 * row, 0.66 + 0.07 * row, 0.5 + 0.13 * row, 0.78 + 0.07 * row), 200, 320, "#9db9c6", 9
            )
        pen.polygon(at(0.12, 1, 0.2, 0.78, 0.38, 0.7, 0.62, 0.7, 0.8, 0.78, 0.88, 1), "#d8a92c")
        pen.ellipse(at(0.3, 0.24, 0.7, 0.74), "#d9a27e")
        pen.polygon(
            at(0.29, 0.5, 0.36, 0.52, 0.5, 0.57, 0.64, 0.52, 0.71, 0.5, 0.68, 0.74, 0.5, 0.88, 0.32, 0.74), "#eeeae2"
        )
        pen.pieslice(at(0.26, 0.1, 0.74, 0.62), 180, 360, "#e8bd3f")
        pen.polygon(at(0.14, 0.4, 0.26, 0.33, 0.74, 0.33, 0.86, 0.4, 0.74, 0.395, 0.26, 0.395), "#c7982a")
        for x in (0.41, 0.59):
            pen.line(at(x - 0.05, 0.42, x + 0.05, 0.415), "#f4f1ea", 14)
            pen.ellipse(at(x - 0.02, 0.44, x + 0.02, 0.48), "#2c3b46")
        pen.polygon(at(0.5, 0.44, 0.55, 0.55, 0.46, 0.55), "#c58763")
        pen.arc(at(0.42, 0.54, 0.58, 0.65), 20, 160, "#8d5a48", 10)

    return _canvas(size, paint)


def cat(size: int) -> Image.Image:
    def paint(pen, at):
        pen.rectangle(at(0, 0, 1, 1), "#f3dfb4")
        pen.rectangle(at(0.08, 0.06, 0.92, 0.74), "#a9d8f0")
        pen.ellipse(at(0.66, 0.1, 0.86, 0.3), "#ffd75e")
        for box in (
            (0.08, 0.06, 0.92, 0.1),
            (0.08, 0.06, 0.12, 0.74),
            (0.88, 0.06, 0.92, 0.74),
            (0.48, 0.06, 0.52, 0.74),
        ):
            pen.rectangle(at(*box), "#ffffff")
        pen.rectangle(at(0, 0.74, 1, 0.86), "#d9b98a")
        pen.arc(at(0.52, 0.5, 0.86, 0.82), 320, 120, "#c8742c", 40)
        pen.ellipse(at(0.3, 0.4, 0.66, 0.82), "#e0893c")
        pen.ellipse(at(0.33, 0.2, 0.63, 0.48), "#e0893c")
        pen.polygon(at(0.34, 0.32, 0.34, 0.14, 0.46, 0.23), "#e0893c")
        pen.polygon(at(0.62, 0.32, 0.62, 0.14, 0.5, 0.23), "#e0893c")
        pen.ellipse(at(0.4, 0.55, 0.56, 0.82), "#f6e3c8")
        for x in (0.42, 0.54):
            pen.ellipse(at(x - 0.025, 0.29, x + 0.025, 0.35), "#2d3a22")
        pen.polygon(at(0.465, 0.38, 0.495, 0.38, 0.48, 0.4), "#7a3d32")
        for y in (0.38, 0.41):
            pen.line(at(0.28, y, 0.42, 0.4), "#fff6e6", 5)
            pen.line(at(0.54, 0.4, 0.68, y), "#fff6e6", 5)

    return _canvas(size, paint)


def robot(size: int, depth: bool = False) -> Image.Image:
    """A robot in a forest; depth: the same as a depth map, near is light."""

    def ink(colour: str, near: int) -> str:
        return f"#{near:02x}{near:02x}{near:02x}" if depth else colour

    def paint(pen, at):
        pen.rectangle(at(0, 0, 1, 1), ink("#bcd6c4", 20))
        for x, wide, near, colour in (
            (0.1, 0.05, 60, "#7da089"),
            (0.78, 0.06, 70, "#7da089"),
            (0.3, 0.05, 50, "#8fb19b"),
        ):
            pen.rectangle(at(x, 0, x + wide, 0.8), ink(colour, near))
        pen.rectangle(at(0, 0.78, 1, 1), ink("#5f7f4b", 110))
        pen.rectangle(at(-0.02, 0, 0.12, 0.95), ink("#4e3b2d", 150))
        pen.rectangle(at(0.87, 0, 1, 0.95), ink("#4e3b2d", 140))
        for x in (0.38, 0.54):
            pen.rectangle(at(x, 0.74, x + 0.08, 0.94), ink("#6f7c88", 195))
        for x in (0.22, 0.7):
            pen.rounded_rectangle(at(x, 0.5, x + 0.08, 0.76), 30, ink("#6f7c88", 200))
        pen.rounded_rectangle(at(0.31, 0.46, 0.69, 0.78), 40, ink("#9aa9b6", 225))
        pen.rounded_rectangle(at(0.34, 0.16, 0.66, 0.42), 40, ink("#b6c4cf", 235))
        pen.rectangle(at(0.46, 0.42, 0.54, 0.46), ink("#6f7c88", 215))
        pen.line(at(0.5, 0.16, 0.5, 0.07), ink("#6f7c88", 225), 12)
        pen.ellipse(at(0.475, 0.04, 0.525, 0.09), ink("#e0653f", 225))
        if not depth:
            for x in (0.43, 0.57):
                pen.ellipse(at(x - 0.04, 0.24, x + 0.04, 0.32), "#fff3b0")
            pen.rectangle(at(0.42, 0.36, 0.58, 0.375), "#51606c")
            pen.rounded_rectangle(at(0.4, 0.54, 0.6, 0.66), 20, "#5fb7c4")

    return _canvas(size, paint)


def bowl(size: int) -> Image.Image:
    snow = Image.fromarray(render(Scene((), "snow", "middle", None, None, 3), size * FINE, oversample=1))
    pen = ImageDraw.Draw(snow)
    side = size * FINE
    pen.pieslice([0.18 * side, 0.12 * side, 0.82 * side, 0.84 * side], 0, 180, "#2f6fb5")
    pen.ellipse([0.18 * side, 0.4 * side, 0.82 * side, 0.56 * side], "#8fc1ea", "#2a4f7c", 8)
    pen.rectangle([0.4 * side, 0.82 * side, 0.6 * side, 0.88 * side], "#27598f")
    return snow.reduce(FINE)


def apple_on_a_table(size: int) -> Image.Image:
    apple = np.asarray(Image.fromarray(render(Scene((_APPLE,), "snow", "middle", None, None, 3), size)), np.int16)
    empty = np.asarray(Image.fromarray(render(Scene((), "snow", "middle", None, None, 3), size)), np.int16)

    def paint(pen, at):
        pen.rectangle(at(0, 0, 1, 1), "#cfc8bd")
        pen.rectangle(at(0, 0.6, 1, 1), "#9c6b3f")
        for y in (0.7, 0.82, 0.93):
            pen.line(at(0, y, 1, y + 0.02), "#835733", 10)
        pen.ellipse(at(0.2, 0.74, 0.84, 0.86), "#6d4828")

    table = np.asarray(_canvas(size, paint))
    inside = (np.abs(apple - empty).max(-1) > 12)[..., None]
    return Image.fromarray(np.where(inside, apple.astype(np.uint8), table))


_APPLE = EXAMPLES["red apple in the snow"].things[0]
SUBJECTS: dict[str, Callable[[int], Image.Image]] = {
    "fisherman": fisherman,
    "cat": cat,
    "robot": robot,
    "bowl": bowl,
    "table": apple_on_a_table,
}


def card(graph: dict[str, Any]) -> Image.Image:
    """What the graph is for: its picture, what comes of it, and its caption; the model's name below. Recent editors lay
    a badge over a card's upper left, where there is no writing."""
    nodes = graph["nodes"]
    by_type = {node["type"]: node for node in nodes}
    caption = next((node["widgets_values"][0] for node in nodes if node.get("title") == "prompt"), "")
    subject = next((draw for word, draw in SUBJECTS.items() if word in caption), None)
    drawn = Image.new("RGB", (SIDE, SIDE), GROUND)
    if "UnCLIPTextDiff" in by_type:
        _row(drawn, [_apple(colour, 126) for colour in ("red", "purple", "blue")], 66)
        before = next(node["widgets_values"][0] for node in nodes if node.get("title") == "what it is")
        end = _say(drawn, f"“{before}”", 222)
        _say(drawn, f"turned toward “{caption}”", end + 6)
    elif "UnCLIPSlerpEmbedding" in by_type and subject:
        start, end = _apple("red", 120), subject(120)
        steps = [Image.blend(start, end, share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
        _row(drawn, steps[:3], 24)
        _row(drawn, steps[3:], 152)
        _say(drawn, f"from a picture to “{caption}”", 286)
    elif "UnCLIPDepthHint" in by_type and subject is robot:
        _row(drawn, [robot(180, depth=True), robot(180)], 60)
        _say(drawn, f"a depth map, and “{caption}”", 258)
    elif "UnCLIPStartFromPicture" in by_type and subject:
        picture, mask = example("red apple in the snow", 180)
        hole = Image.fromarray(np.where(mask[..., None] > 0.5, np.uint8(255), picture))
        _row(drawn, [hole, subject(180)], 60)
        _say(drawn, f"in the mask: “{caption}”", 258)
    elif "UnCLIPExamplePicture" in by_type:
        others = [_apple("red", 150, seed) for seed in (11, 12, 13)]
        _row(drawn, [_apple("red", 150), others[0]], 22)
        _row(drawn, others[1:], 184)
    else:
        height = _say(drawn.copy(), f"“{caption}”", 0)
        size = 336 - height - 12
        picture = subject(size) if subject else None
        if picture:
            drawn.paste(picture, ((SIDE - size) // 2, 18))
        _say(drawn, f"“{caption}”", 26 + size)
    model = next(node["widgets_values"][0] for node in nodes if node["type"] == "UnCLIPLoader")
    pen = ImageDraw.Draw(drawn)
    pen.text((SIDE / 2, SIDE - 24), f"a sketch · for {model}", FAINT, ImageFont.load_default(15), anchor="mm")
    return drawn


def _apple(colour: str, size: int, seed: int = 0) -> Image.Image:
    """The example picture; with a seed a variation of it, with a colour another one."""
    turn = (seed * 37 % 11) - 5
    place = {
        "x": 0.5 + 0.016 * turn,
        "y": 0.5 - 0.012 * (turn % 4),
        "width": 0.66 - 0.03 * (seed % 4),
        "angle": 2.0 + 3 * turn,
    }
    thing = Thing("apple", colour, "big", **(place if seed else {"x": 0.5, "y": 0.5, "width": 0.66, "angle": 2.0}))
    return Image.fromarray(render(Scene((thing,), "snow", "middle", None, None, seed or 3), size))


def _row(card: Image.Image, pictures: list[Image.Image], top: int, gap: int = 8) -> None:
    left = (SIDE - sum(picture.width + gap for picture in pictures) + gap) // 2
    for picture in pictures:
        card.paste(picture, (left, top))
        left += picture.width + gap


def _say(card: Image.Image, text: str, top: int) -> int:
    """Write text on up to three lines; returns where they end."""
    font = font_for(text, 20)
    pen = ImageDraw.Draw(card)
    lines = wrapped(font, text, SIDE - 40, 3)
    for number, line in enumerate(lines):
        pen.text((SIDE / 2, top + 26 * number), line, WORDS, font, anchor="ma")
    return top + 26 * len(lines)
