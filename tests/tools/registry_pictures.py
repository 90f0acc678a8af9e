"""Draws what the registry shows of the pack, docs/images/icon.png and banner.png, by storybook's own renderer.

    python tests/tools/registry_pictures.py

The banner, 7 x 3 squares, is the forward process of diffusion from right to left: x_t = sqrt(a) x_0 + sqrt(1 - a) eps
with a from 1 in the last column down to 0 in the first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from comfyui_unclip.unclip_core.storybook.draw import render
from comfyui_unclip.unclip_core.storybook.scenes import Scene, Thing

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "images"
ICON, CELL = 400, 180  # pixels
SCENES = (  # a line a column, from noise to picture
    "red heart snow | yellow star sea | purple tree desert",
    "yellow moon night sky | red house desert | white fish sea",
    "pink flower meadow | blue cup blue sky | orange car snow",
    "white boat sea | green apple snow | pink moon night sky",
    "green tree snow | pink heart sea | blue house meadow",
    "blue car desert | red star night sky | yellow flower meadow",
    "orange fish sea | purple cup meadow | red mushroom snow",
)


def icon() -> Image.Image:
    """The README's red star."""
    return Image.fromarray(render(_scene("red star night sky", 6), ICON))


def banner() -> Image.Image:
    """(540, 1260) pixels."""
    rng = np.random.default_rng(0)
    columns = []
    for number, line in enumerate(SCENES):
        scenes = [_scene(text, 10 * number + row) for row, text in enumerate(line.split("|"))]
        a = number / (len(SCENES) - 1)
        columns.append(np.vstack([_noised(render(scene, CELL), a, rng) for scene in scenes]))
    return Image.fromarray(np.hstack(columns))


def _scene(text: str, seed: int) -> Scene:
    colour, kind, background = text.strip().split(maxsplit=2)
    return Scene((Thing(kind, colour, "big", 0.5, 0.52, 0.68, 3.0),), background, "middle", seed=seed)


def _noised(picture: np.ndarray, a: float, rng: np.random.Generator) -> np.ndarray:
    """x_t of a picture (H, W, 3) uint8; a grain a third of its size, and 0.6 of its strength: a card is small."""
    grain = rng.standard_normal((CELL // 3, CELL // 3, 3)).repeat(3, 0).repeat(3, 1)
    x_t = a**0.5 * (picture / 127.5 - 1) + (1 - a) ** 0.5 * 0.6 * grain
    return ((x_t.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)


def main() -> None:
    for name, picture in (("icon", icon()), ("banner", banner())):
        picture.save(FOLDER / f"{name}.png", optimize=True)
        print(f"docs/images/{name}.png")


if __name__ == "__main__":
    main()
