"""Inpainting: an extension after GLIDE and RePaint, not in the paper's model (App. C)."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from ...pictures.drawing import labelled_grid
from ...storybook.scenes import COLOURS, OBJECTS, Scene
from ...types import PictureStart
from ..context import Context
from ..judge import HEADS
from ..results import Check, Figure, Result, Table
from ..statistics import Measured, share
from ..storybook import real_pictures
from .common import Experiment, choose, judged, result_scenes, truth, tuning_scenes
from .edits import plain_caption

MARGIN = 0.08  # of the picture's side, around the object


@dataclass(frozen=True)
class Settings:
    """scenes: held-out ones, half asked for another object, half for another colour."""

    scenes: int = 96
    steps: int = 25
    guidances: tuple[float, ...] = (2.0, 3.0, 4.0, 6.0)
    tuning: int = 24


@dataclass(frozen=True)
class Request:
    """What is asked for in the place of a scene's object."""

    scene: Scene
    attribute: str
    wanted: dict[str, str]

    @property
    def caption(self) -> str:
        """What the decoder and the prior are told."""
        return plain_caption(**self.wanted)


def run(context: Context, settings: Settings) -> Result:
    """Repaint the object's place as a caption says."""
    tuning = requests([scene for scene in tuning_scenes(settings.tuning, offset=3)])

    def score(guidance: float) -> float:
        made, _ = repaint(context, tuning, guidance, settings.steps)
        hits = _present(context, tuning, made)
        return sum(hits) / len(hits)

    guidance, chosen = choose(settings.guidances, score, "guidance (score: asked-for attribute)", settings.tuning)
    asked = requests(result_scenes(settings.scenes, offset=3))
    made, masks = repaint(context, asked, guidance, settings.steps)
    pictures = real_pictures([request.scene for request in asked])
    outside = ((made - pictures).abs().amax(-1) * (masks == 0)).amax()
    worst = float(outside) * 255
    hits = _present(context, asked, made)
    seen = judged(context.judge, made)
    rows = []
    for attribute in ("object", "colour"):
        rows_of = [i for i, request in enumerate(asked) if request.attribute == attribute]
        present = share([hits[i] for i in rows_of]).shown("%")
        whole = share([all(seen[i][head] == asked[i].wanted[head] for head in HEADS) for i in rows_of]).shown("%")
        rows.append([f"another {attribute} ({len(rows_of)})", present, whole])
    return Result(
        checks=[
            Check(
                "largest error outside the mask, of 255",
                Measured(worst, worst, worst, f"the largest of {len(asked)} pictures", exact=True),
                1.0,
                "",
                below=True,
            ),
            Check("the asked-for attribute is there", share(hits), 0.70),
        ],
        tables=[chosen, Table("Held-out scenes", ["asked for", "there", "object, colour and background right"], rows)],
        figures=[_figure(pictures, masks, made)],
        paper=["No claim of the paper: its model does not inpaint (App. C); this is an extension."],
        notes=[
            f"The mask is the object's box with a margin; the prior imagines the new caption, which the decoder reads "
            f"as well; guidance {guidance:g}, {settings.steps} steps, DDIM."
        ],
    )


def requests(scenes: list[Scene]) -> list[Request]:
    """Another object for every other scene, another colour for the rest."""
    rng, asked = random.Random("inpainting"), []
    for index, scene in enumerate(scenes):
        attribute, names = (("object", OBJECTS), ("colour", COLOURS))[index % 2]
        own = truth(scene)
        asked.append(
            Request(scene, attribute, {**own, attribute: rng.choice([n for n in names if n != own[attribute]])})
        )
    return asked


def repaint(context: Context, asked: list[Request], guidance: float, steps: int) -> tuple[Tensor, Tensor]:
    """IMAGE and MASK (B, 64, 64), 1 = repainted."""
    masks = torch.stack([box_mask(request.scene) for request in asked])
    embed, text = context.imagine([request.caption for request in asked], seed=3)
    made = context.decode(
        embed,
        text,
        seed=3,
        noise=PictureStart(real_pictures([request.scene for request in asked]), masks),
        sampler="ddim",
        steps=steps,
        guidance_scale=guidance,
        what="inpaint",
    )
    return made, masks


def box_mask(scene: Scene) -> Tensor:
    """(64, 64): 1 in the box around the scene's first thing."""
    thing, mask = scene.things[0], torch.zeros(64, 64)
    half = thing.width / 2 + MARGIN
    top, bottom, left, right = (
        round(min(max(at, 0.0), 1.0) * 64) for at in (thing.y - half, thing.y + half, thing.x - half, thing.x + half)
    )
    mask[top:bottom, left:right] = 1.0
    return mask


def _present(context: Context, asked: list[Request], made: Tensor) -> list[bool]:
    seen = judged(context.judge, made)
    return [
        one[request.attribute] == request.wanted[request.attribute] for one, request in zip(seen, asked, strict=True)
    ]


def _figure(pictures: Tensor, masks: Tensor, made: Tensor) -> Figure:
    hidden = pictures * (1 - masks[..., None]) + 0.5 * masks[..., None]
    grid = labelled_grid([pictures[:8], hidden[:8], made[:8]], ["input", "kept", "repainted"])
    return Figure("inpainting", "Columns in turn: another object, another colour.", grid)


EXPERIMENT = Experiment(
    "inpainting",
    "Inpainting (extension)",
    "not in the paper; after GLIDE and RePaint",
    Settings(),
    Settings(scenes=16, steps=20, guidances=(2.0, 4.0), tuning=6),
    run,
)
