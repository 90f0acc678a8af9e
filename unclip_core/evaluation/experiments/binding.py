"""Attribute binding: two objects of two colours (§7, limitations)."""

from __future__ import annotations

from ...pictures.drawing import labelled_grid
from ..context import Context
from ..results import Figure, Result, Table
from ..statistics import share
from ..storybook import pair_scores
from .common import Experiment, Limits, caption_alone, limited_ways, result_scenes


def run(context: Context, settings: Limits) -> Result:
    """Caption alone, full stack, and the true picture's z_i."""
    scenes = [
        scene
        for scene in result_scenes(3 * settings.scenes, "two", offset=90)
        if len({thing.kind for thing in scene.things}) == len({thing.colour for thing in scene.things}) == 2
    ][: settings.scenes]
    ways = limited_ways(context, scenes, settings, "pairs", seed=8)
    rows, bound = [], {}
    for name, made in ways.items():
        scores = pair_scores(context.judge, made, scenes)
        bound[name] = scores["bound"]
        # pair_scores gives means of yes and no: a Wilson interval needs no more than the mean and the number.
        cells = (share([scores[kind]], len(scenes)) for kind in ("objects", "colours", "bound", "background"))
        rows.append([name, *(cell.shown("%") for cell in cells)])
    grid = labelled_grid([made[:8] for made in ways.values()], list(ways))
    return Result(
        tables=[
            Table(f"{len(scenes)} held-out pairs", ["", "both objects", "both colours", "bound", "background"], rows)
        ],
        figures=[Figure("binding", "Two objects of two colours.", grid)],
        paper=[_verdict(bound)],
        notes=[
            f"Bound: each half of the picture shows its own object in its own colour, where the caption puts it. "
            f"Guidance {settings.guidance:g}, {settings.steps} steps, not tuned. {caption_alone(context)}"
        ],
    )


def _verdict(bound: dict[str, float]) -> str:
    told = ", ".join(f"{name} {value:.0%}" for name, value in bound.items())
    if bound["the true picture's z_i"] < 0.5 * bound["renders"]:
        return f"Agrees with §7: even the true z_i does not bind attributes to objects well ({told} bound)."
    return f"Contradicts §7 here: the true z_i binds attributes to objects ({told} bound)."


EXPERIMENT = Experiment(
    "binding",
    "Limits: attribute binding",
    "§7, Fig. 14: z_i mixes up which object has which attribute",
    Limits(),
    Limits(scenes=12, steps=15),
    run,
)
