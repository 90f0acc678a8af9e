"""Attribute binding: two objects of two colours (§7, limitations)."""

from __future__ import annotations

from ...pictures.drawing import labelled_grid
from ..context import Context
from ..results import Check, Figure, Result, Table
from ..statistics import Measured, kappa, share
from ..storybook import pair_right
from .common import Experiment, Limits, caption_alone, limited_ways, one_object_ceiling, result_scenes, unfit


def run(context: Context, settings: Limits) -> Result:
    """Caption alone, full stack, and the true picture's z_i."""
    scenes = [
        scene
        for scene in result_scenes(3 * settings.scenes, "two", offset=90)
        if len({thing.kind for thing in scene.things}) == len({thing.colour for thing in scene.things}) == 2
    ][: settings.scenes]
    ways = limited_ways(context, scenes, settings, "pairs", seed=8)
    ceiling, rows, bound, agreed = one_object_ceiling(context, settings, seed=8), [], {}, []
    for name, made in ways.items():
        hits = pair_right(context.judge, made, scenes)
        fitted = [fit.binds(scene) for fit, scene in zip(context.fits(made), scenes, strict=True)]
        bound[name] = share(hits["bound"])
        cells = [*(share(hits[kind]) for kind in ("objects", "colours", "bound", "background")), share(fitted)]
        rows.append([name, *(cell.shown("%") for cell in cells)])
        if name != "renders":
            agreed += zip(hits["bound"], fitted, strict=True)
    same, beyond = kappa(*zip(*agreed, strict=True), groups=len(scenes))
    grid = labelled_grid([made[:8] for made in ways.values()], list(ways))
    return Result(
        checks=[ceiling],
        tables=[
            Table(
                f"{len(scenes)} held-out pairs",
                ["", "both objects", "both colours", "bound", "background", "bound, by the fitter"],
                rows,
            ),
            Table(
                f"Judge and fitter on whether pairs are bound, {len(agreed)} samples",
                ["the same", "Cohen's kappa"],
                [[same.shown("%"), beyond.shown()]],
            ),
        ],
        figures=[Figure("binding", "Two objects of two colours.", grid)],
        paper=[_verdict(bound, ceiling)],
        notes=[
            f"Bound: each half of the picture shows its own object in its own colour, where the caption puts it. "
            f"Guidance {settings.guidance:g}, {settings.steps} steps, not tuned. {caption_alone(context)}"
        ],
    )


def _verdict(bound: dict[str, Measured], ceiling: Check) -> str:
    if reason := unfit(ceiling):
        return reason
    told = ", ".join(f"{name} {value.value:.0%}" for name, value in bound.items())
    told += f"; one object from its true z_i {ceiling.measured.value:.0%}"
    found = bound["the true picture's z_i"].against(0.5 * bound["renders"].value)
    if found == "missed":
        return f"Agrees with §7: even the true z_i does not bind attributes to objects well ({told} bound)."
    if found == "undecided":
        return f"Undecided on §7: whether the true z_i binds attributes to objects half as often as renders ({told})."
    return f"Contradicts §7 here: the true z_i binds attributes to objects ({told} bound)."


EXPERIMENT = Experiment(
    "binding",
    "Limits: attribute binding",
    "§7, Fig. 14: z_i mixes up which object has which attribute",
    Limits(),
    Limits(scenes=12, steps=15),
    run,
)
