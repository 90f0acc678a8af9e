"""Guidance: what fidelity costs in diversity, for the full stack and for the decoder on captions alone (§5.3)."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from torch import Tensor

from ...pictures.drawing import labelled_grid
from ...storybook.scenes import Scene
from ..context import Context
from ..judge import features_of
from ..plots import Point, line_plot
from ..results import Figure, Result, Table
from ..statistics import mean, ratio_of, share, spread_within
from ..storybook import real_pictures
from .common import Experiment, caption_alone, repeated, result_scenes, right
from .variations import repeated_captions

READABLE = 0.2  # share of right pictures below which their diversity is not worth comparing
STACK, CAPTION = "unCLIP (prior's z_i and caption)", "caption alone"


@dataclass(frozen=True)
class Settings:
    """scenes: held-out captions, each with `samples` pictures at every guidance."""

    scenes: int = 64
    samples: int = 4
    steps: int = 25
    guidances: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)


def run(context: Context, settings: Settings) -> Result:
    """Attributes right, and the spread of the pictures of one caption, by guidance."""
    scenes = result_scenes(settings.scenes, offset=80)
    captions = repeated_captions(scenes, settings.samples)
    embed, text = context.imagine(captions, seed=6)
    rows, lines, shown, spreads, best = [], {STACK: [], CAPTION: []}, [], {}, {}
    for name, given in ((STACK, embed), (CAPTION, None)):
        for guidance in settings.guidances:
            made = context.decode(
                given, text, seed=6, guidance_scale=guidance, steps=settings.steps, what=f"guidance {guidance:g}"
            )
            fidelity = share(right(context.judge, made, repeated(scenes, settings.samples))["all"], len(scenes))
            spreads[name, guidance] = spread_within(features_of(context.judge, made), len(scenes))
            diversity = mean(spreads[name, guidance])
            rows.append([name, f"{guidance:g}", fidelity.shown("%"), diversity.shown()])
            lines[name].append(Point(diversity.value, fidelity.value, fidelity.low, fidelity.high, f"{guidance:g}"))
            best[name] = max(best.get(name, 0.0), fidelity.value)
        shown += [_row(made, settings)]
    real = _real(scenes, settings.samples)
    ceiling = share(right(context.judge, real, repeated(scenes, settings.samples))["all"], len(scenes))
    spread = mean(spread_within(features_of(context.judge, real), len(scenes)))
    rows.append(["renders", "", ceiling.shown("%"), spread.shown()])
    plot = line_plot(lines, "diversity", "right", percent=True)
    grid = labelled_grid([*shown, _row(real, settings)], [STACK, CAPTION, "renders"])
    top = f"{settings.guidances[-1]:g}"
    return Result(
        tables=[
            Table(
                f"{len(scenes)} held-out captions, {settings.samples} pictures each",
                ["", "guidance", "all attributes right", "diversity"],
                rows,
            )
        ],
        figures=[
            Figure("guidance_curve", "Fidelity by diversity; the numbers are guidances.", plot),
            Figure("guidance", f"Two captions at guidance {top}, and renders of the same things.", grid),
        ],
        paper=[_verdict(spreads, best, settings)],
        notes=[
            "Diversity: mean distance of the judge's features between pictures of one caption; renders are of the "
            "same object, colour and background, anywhere and at any size. 'Caption alone' stands in for GLIDE at a "
            f"disadvantage. {caption_alone(context)}"
        ],
    )


def _row(made: Tensor, settings: Settings) -> Tensor:
    return made[: 2 * settings.samples]


def _real(scenes: list[Scene], count: int) -> Tensor:
    """Renders of each scene's object, colour and background in `count` other arrangements."""
    rng, others = random.Random("guidance"), result_scenes(200, offset=81)
    made = []
    for scene in scenes:
        for other in rng.sample(others, count):
            thing = replace(other.things[0], kind=scene.things[0].kind, colour=scene.things[0].colour)
            made.append(replace(other, things=(thing,), background=scene.background))
    return real_pictures(made)


def _verdict(spreads: dict[tuple[str, float], list[float]], best: dict[str, float], settings: Settings) -> str:
    """spreads: of each caption's pictures. best: each way's highest share of pictures that are right."""
    first, last = settings.guidances[0], settings.guidances[-1]
    kept = {name: ratio_of(spreads[name, last], spreads[name, first]) for name in (STACK, CAPTION)}
    told = (
        f"from guidance {first:g} to {last:g} unCLIP keeps {kept[STACK].shown('%')} of its diversity, "
        f"caption alone {kept[CAPTION].shown('%')}"
    )
    if best[CAPTION] < READABLE:
        return (
            f"Undecided on §5.3: the decoder on captions alone is right in {best[CAPTION]:.0%} at best, and the "
            f"diversity of wrong pictures compares with nothing; {told}."
        )
    if kept[STACK].low > kept[CAPTION].high:
        return f"Agrees with §5.3 (guidance costs unCLIP less diversity): {told}."
    if kept[STACK].high < kept[CAPTION].low:
        return f"Contradicts §5.3 here: {told}."
    return f"Undecided on §5.3, the intervals overlap: {told}."


EXPERIMENT = Experiment(
    "guidance",
    "Guidance: fidelity against diversity",
    "§5.3: guidance costs unCLIP less diversity than GLIDE",
    Settings(),
    Settings(scenes=10, samples=3, steps=12, guidances=(1.0, 2.0, 4.0)),
    run,
)
