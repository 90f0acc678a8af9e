"""Twenty pictures of something that storybook has never seen: a snail, drawn here and nowhere else.

    python tests/benchmarks/snail.py out/snails         # 0001.png ... 0020.png with captions beside them

The shell has the colour that the caption says. Colours and backgrounds are those of SEEN alone, so that pictures in
others show what a training on them has understood. The backgrounds are the storybook's own, empty.
"""

from __future__ import annotations

import random
import sys
from math import cos, pi, sin
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from comfyui_unclip.unclip_core.storybook.captions import BACKGROUND_PHRASES
from comfyui_unclip.unclip_core.storybook.draw import COLOUR_RGB, render
from comfyui_unclip.unclip_core.storybook.scenes import BACKGROUNDS, COLOURS, Scene

WORD, CLASS = "sks_snail", "mushroom"
SEEN_COLOURS = ("red", "orange", "green", "blue", "pink")
SEEN_BACKGROUNDS = ("meadow", "desert", "blue sky", "sea")
UNSEEN_COLOURS = tuple(colour for colour in COLOURS if colour not in SEEN_COLOURS)
UNSEEN_BACKGROUNDS = tuple(background for background in BACKGROUNDS if background not in SEEN_BACKGROUNDS)
INK, BODY, EYE = (30, 22, 44), (236, 208, 160), (255, 255, 255)
_SUPER = 4  # drawn this much larger, then averaged


def draw_snail(
    colour: str, background: str, size: int = 256, *, x: float = 0.5, y: float = 0.55, width: float = 0.6, seed: int = 0
) -> Image.Image:
    """A snail whose shell has the colour. x, y, width: of the whole snail, in 0..1 of the side."""
    side = size * _SUPER
    scene = Scene((), background, seed=seed)
    picture = Image.fromarray(render(scene, side, oversample=1))
    unit = width * side

    def at(u: float, v: float) -> tuple[float, float]:
        return x * side + u * unit, y * side + v * unit

    body, shell, horns = (Image.new("L", picture.size) for _ in range(3))
    ink = ImageDraw.Draw(body)
    # The foot: a long flat drop, the head raised on the right.
    foot = [at(-0.5 + 0.84 * i / 24, 0.33 - 0.05 * sin(pi * i / 24)) for i in range(25)]
    neck = [at(0.34 + 0.13 * sin(i / 12 * pi / 2), 0.30 - 0.38 * i / 12) for i in range(13)]
    back = [at(0.29 - 0.10 * i / 12, -0.06 + 0.26 * i / 12) for i in range(13)]
    ink.polygon([at(-0.5, 0.40), at(0.36, 0.40), *neck, *back, *reversed(foot)], fill=255)
    for u, v, r in ((0.38, -0.06, 0.105), (0.34, 0.33, 0.075)):
        ink.ellipse([at(u - r, v - r), at(u + r, v + r)], fill=255)
    ImageDraw.Draw(shell).ellipse([at(-0.40, -0.36), at(0.26, 0.30)], fill=255)
    ink = ImageDraw.Draw(horns)
    tips = [at(0.34, -0.33), at(0.50, -0.30)]
    for start, tip in zip((at(0.36, -0.1), at(0.42, -0.1)), tips, strict=True):
        ink.line([start, tip], fill=255, width=round(0.035 * unit))
    for u, v in tips:
        r = 0.035 * unit
        ink.ellipse([u - r, v - r, u + r, v + r], fill=255)

    main = COLOUR_RGB[colour]
    line = max(3, round(0.022 * side) | 1)
    for part, fill in ((horns, BODY), (body, BODY), (shell, main)):
        outline = part.filter(ImageFilter.MaxFilter(line))
        picture.paste(INK, mask=ImageChops.subtract(outline, part))
        picture.paste(fill, mask=part)
    ink = ImageDraw.Draw(picture)
    centre, dark = (-0.07, -0.03), tuple(round(0.55 * value) for value in main)
    spiral = [
        at(centre[0] + r * cos(turn), centre[1] + r * sin(turn))
        for turn in (i / 24 * 2 * pi for i in range(61))
        for r in (0.02 + 0.0165 * turn,)
    ]
    ink.line(spiral, fill=dark, width=round(0.03 * unit), joint="curve")
    for u, v in tips:
        r = 0.016 * unit
        ink.ellipse([u - r, v - r, u + r, v + r], fill=INK)
    u, v = at(0.40, -0.07)
    r = 0.03 * unit
    ink.ellipse([u - r, v - r, u + r, v + r], fill=INK)
    return picture.resize((size, size), Image.Resampling.BOX)


def sample(rng: random.Random, colour: str, background: str, size: int = 256) -> Image.Image:
    """A snail somewhere in the picture."""
    width = rng.uniform(0.5, 0.72)
    free = 0.5 - width / 2 - 0.03
    place = {"x": 0.5 + rng.uniform(-free, free), "y": 0.5 + rng.uniform(-free, free)}
    return draw_snail(colour, background, size, **place, width=width, seed=rng.getrandbits(32))


def write_pictures(folder: Path, count: int = 20, seed: int = 0) -> list[Path]:
    """PNG files with a caption beside each: every seen colour on every seen background, again and again."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths = random.Random(seed), []
    pairs = [(colour, background) for colour in SEEN_COLOURS for background in SEEN_BACKGROUNDS]
    rng.shuffle(pairs)
    for number in range(count):
        colour, background = pairs[number % len(pairs)]
        path = folder / f"{number + 1:04}.png"
        sample(rng, colour, background).save(path)
        caption = f"a {colour} {WORD} {BACKGROUND_PHRASES[background][0]}"
        path.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
        paths.append(path)
    return paths


if __name__ == "__main__":
    print(*write_pictures(Path(sys.argv[1] if len(sys.argv) > 1 else "out/snails")), sep="\n")
