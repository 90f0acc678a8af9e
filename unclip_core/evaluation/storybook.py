"""Scores of pictures of held-out scenes: what the judge sees in pairs; and what they are compared with."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..pictures.resizing import resize_bicubic
from ..storybook.captions import caption
from ..storybook.scenes import Scene
from ..storybook.shards import draw_many
from ..training.data import to_model
from ..types import model_to_image
from .judge import Judge, two_halves, verdicts

SCENE_SEED = 2024  # of the held-out scenes; training uses other seeds and no held-out triple


@dataclass(frozen=True)
class SampleSettings:
    """How samples are made: keyword arguments of the stages' `sample`."""

    prior: dict[str, Any] = field(default_factory=dict)
    decoder: dict[str, Any] = field(default_factory=dict)


def captions_of(scenes: list[Scene], language: str = "en") -> list[str]:
    """A full caption (object, colour and background said) for each scene."""
    rng = random.Random(SCENE_SEED)
    return [caption(scene, rng, language, full=True)[0] for scene in scenes]


def pair_right(judge: Judge, pictures: Tensor, scenes: list[Scene]) -> dict[str, list[bool]]:
    """Two-object pictures: objects, colours, each thing bound to its colour and place, background."""
    both = {"objects": [], "colours": [], "bound": [], "background": []}
    for picture, scene in zip(pictures, scenes, strict=True):
        halves = [verdicts(judge, half)[0] for half in two_halves(picture[None], scene.relation)]
        kinds = [seen["object"] == thing.kind for seen, thing in zip(halves, scene.things, strict=True)]
        colours = [seen["colour"] == thing.colour for seen, thing in zip(halves, scene.things, strict=True)]
        both["objects"].append(all(kinds))
        both["colours"].append(all(colours))
        both["bound"].append(all(kinds) and all(colours))
        both["background"].append(verdicts(judge, picture[None])[0]["background"] == scene.background)
    return both


def real_pictures(scenes: list[Scene]) -> Tensor:
    """IMAGE (N, 64, 64, 3): the scenes as the renderer draws them."""
    return model_to_image(to_model(draw_many(scenes)))


def bicubic(pictures: Tensor, size: int) -> Tensor:
    """IMAGE enlarged to `size` px by bicubic interpolation."""
    return resize_bicubic(pictures.movedim(-1, 1), size).clamp(0, 1).movedim(1, -1)
