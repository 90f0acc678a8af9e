"""Guidance: what fidelity costs in diversity, for unCLIP and for a decoder on captions alone (§5.3, Figs 9 to 11).

The paper compares with GLIDE, which reads captions alone. Here two decoders are compared that are alike in all but what
they are told; the shipped stack stands beside them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from torch import Tensor

from ...pictures.drawing import labelled_grid
from ...storybook.scenes import Scene
from ..context import Context
from ..judge import features_of
from ..plots import Point, line_plot
from ..results import Check, Figure, Result, Table
from ..statistics import Reference, mean, plain, ratio_difference, ratio_of, share, spread_within
from ..storybook import real_pictures
from .common import Experiment, repeated, result_scenes, right
from .prior_importance import sibling_gate, siblings_note, trained_too_little
from .variations import repeated_captions

STACK, CAPTION, SHIPPED = "unCLIP (sibling)", "caption alone (sibling)", "unCLIP (shipped)"


@dataclass(frozen=True)
class Settings:
    """scenes: held-out captions, each with `samples` pictures at every guidance."""

    scenes: int = 64
    samples: int = 4
    steps: int = 25
    guidances: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0, 8.0)


def run(context: Context, settings: Settings) -> Result:
    """Attributes right, the spread of the pictures of one caption, and the distance to renders, by guidance."""
    scenes = result_scenes(settings.scenes, offset=80)
    many = repeated(scenes, settings.samples)
    embed, text = context.imagine(repeated_captions(scenes, settings.samples), seed=6)
    reference = Reference(features_of(context.judge, real_pictures(result_scenes(len(many), offset=82))))
    siblings = context.siblings().decoders
    ways = {STACK: (siblings["image"], embed), CAPTION: (siblings["caption"], None), SHIPPED: (context.decoder, embed)}
    rows, shown, spreads, best = [], [], {}, {}
    lines, distances = {name: [] for name in ways}, {name: [] for name in ways}
    for name, (decoder, given) in ways.items():
        for guidance in settings.guidances:
            made = context.decode(
                given, text, decoder=decoder, seed=6, guidance_scale=guidance, steps=settings.steps,
                what=f"{name}, guidance {guidance:g}",
            )  # fmt: skip
            features = features_of(context.judge, made)
            fidelity = share(right(context.judge, made, many)["all"], len(scenes))
            spreads[name, guidance] = spread_within(features, len(scenes))
            diversity, distance = mean(spreads[name, guidance]), reference.frechet(features)
            rows.append([name, f"{guidance:g}", fidelity.shown("%"), diversity.shown(), plain(distance)])
            lines[name].append(Point(diversity.value, fidelity.value, fidelity.low, fidelity.high, f"{guidance:g}"))
            distances[name].append(Point(guidance, distance))
            best[name] = max((fidelity, best.get(name, fidelity)), key=lambda each: each.value)
        shown.append(_row(made, settings))
    real = _real(scenes, settings.samples)
    ceiling = share(right(context.judge, real, many)["all"], len(scenes))
    features = features_of(context.judge, real)
    spread = mean(spread_within(features, len(scenes)))
    rows.append(["renders", "", ceiling.shown("%"), spread.shown(), plain(reference.frechet(features))])
    plot = line_plot(lines, "diversity", "right", percent=True)
    by_guidance = line_plot(distances, "guidance", "Fréchet distance", log_x=True)
    grid = labelled_grid([*shown, _row(real, settings)], [*ways, "renders"])
    top = f"{settings.guidances[-1]:g}"
    gates = [sibling_gate(context, best[name], name) for name in (CAPTION, STACK)]
    return Result(
        checks=gates,
        tables=[
            Table(
                f"{len(scenes)} held-out captions, {settings.samples} pictures each",
                ["", "guidance", "all attributes right", "diversity", "Fréchet distance"],
                rows,
            )
        ],
        figures=[
            Figure("guidance_curve", "Fidelity by diversity; the numbers are guidances (Fig. 10).", plot),
            Figure("guidance_distance", "Distance to renders by guidance (Fig. 11).", by_guidance),
            Figure("guidance", f"Two captions at guidance {top}, and renders of the same things (Fig. 9).", grid),
        ],
        paper=[_verdict(spreads, gates, settings)],
        notes=[
            "Diversity: mean distance of the judge's features between pictures of one caption; renders are of the "
            "same object, colour and background, anywhere and at any size. 'Caption alone' stands in for GLIDE: a "
            "sibling that was trained on captions only, for as long. Distances are to renders of other held-out "
            "scenes; of so few pictures they are biased upward, all alike.",
            siblings_note(context),
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


def _verdict(spreads: dict[tuple[str, float], list[float]], gates: list[Check], settings: Settings) -> str:
    """spreads: of each caption's pictures. gates: whether both decoders paint what was asked for at all."""
    first, last = settings.guidances[0], settings.guidances[-1]
    ends = {name: (spreads[name, last], spreads[name, first]) for name in (STACK, CAPTION)}
    kept = {name: ratio_of(*each) for name, each in ends.items()}
    more = ratio_difference(*ends[STACK], *ends[CAPTION])
    told = (
        f"from guidance {first:g} to {last:g} unCLIP keeps {kept[STACK].shown('%')} of its diversity, a decoder on "
        f"captions alone {kept[CAPTION].shown('%')}"
    )
    if failed := trained_too_little(gates):
        return f"Undecided on §5.3: {failed}, and the diversity of wrong pictures compares with little; {told}."
    provisos = "".join(gate.proviso for gate in gates)
    if more.low > 0:
        return f"Agrees with §5.3 (guidance costs unCLIP less diversity): {told}{provisos}."
    if more.high < 0:
        return f"Contradicts §5.3 here: {told}{provisos}."
    return f"Undecided on §5.3, apart by {more.shown('%')} on the same captions: {told}{provisos}."


EXPERIMENT = Experiment(
    "guidance",
    "Guidance: fidelity against diversity",
    "§5.3: guidance costs unCLIP less diversity than GLIDE",
    Settings(),
    Settings(scenes=10, samples=3, steps=12, guidances=(1.0, 2.0, 4.0)),
    run,
    siblings=True,
    shown=("guidance_curve",),
)
