"""A few pictures for graphs that start from one: drawn when asked for, so that they fit any size and cost no file.

None is in the training data: the objects are held-out triples. Names and scenes need neither numpy nor Pillow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .scenes import Scene, Thing

if TYPE_CHECKING:
    import numpy as np

SIZE = 512


def _one(kind: str, colour: str, background: str, *, word: str | None = None, seed: int = 0, **place) -> Scene:
    size = {"size": "big", "x": 0.5, "y": 0.5, "width": 0.66, "angle": 2.0} | place
    return Scene((Thing(kind, colour, **size),), background, "middle", None, word, seed)


EXAMPLES: dict[str, Scene] = {
    "red apple in the snow": _one("apple", "red", "snow", seed=3),
    "blue car by the sea": _one("car", "blue", "sea", seed=4),
    "yellow house at night": _one("house", "yellow", "night sky", seed=5),
    "pink tree on a meadow": _one("tree", "pink", "meadow", seed=6),
    "white fish in the sea": _one("fish", "white", "sea", seed=7),
    "purple mushroom, small, on a meadow": _one(
        "mushroom", "purple", "meadow", size="small", x=0.3, y=0.62, width=0.36, seed=8
    ),
    "apple with the word ipod": _one("apple", "red", "snow", word="ipod", seed=3),
    "cup with the word fish": _one("cup", "red", "blue sky", word="fish", seed=9),
    "star above a boat": Scene(
        (Thing("star", "white", "medium", 0.5, 0.27, 0.42, -3.0), Thing("boat", "orange", "medium", 0.5, 0.73, 0.42)),
        "sea",
        "anywhere",
        "above",
        None,
        10,
    ),
}


def example(name: str, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """(picture (size, size, 3) uint8, mask (size, size) float32 in 0..1, 1 = where the object is).

    The mask is the object with a margin, as one would paint it by hand. Raises ValueError for an unknown name.
    """
    if name not in EXAMPLES:
        raise ValueError(f"Example Picture: there is no example {name!r}; choose one of {', '.join(EXAMPLES)}")
    import numpy as np
    from PIL import Image, ImageFilter

    from .draw import render

    scene = EXAMPLES[name]
    picture = render(scene, size)
    empty = render(Scene((), scene.background, scene.position, None, None, scene.seed), size)
    difference = np.abs(picture.astype(np.int16) - empty.astype(np.int16)).max(-1) > 12
    grown = Image.fromarray(difference.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * (size // 32) + 1))
    return picture, np.asarray(grown, dtype=np.float32) / 255.0
