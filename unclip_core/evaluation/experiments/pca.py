"""What the principal components of z_i hold: decode it through its first few (§4, Fig. 7).

The paper finds coarse meaning in the first components, such as what kinds of things there are, and the exact form of
things in later ones. A storybook picture says what there is by its object, colour and background; of an object's form
only its place and size differ from picture to picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...clip.pca import basis_of, project
from ...pictures.drawing import labelled_grid
from ...storybook.scenes import Scene
from ..context import Context
from ..judge import HEADS
from ..plots import Point, line_plot
from ..reader import readings
from ..results import Check, Figure, Result, Table
from ..statistics import Measured, mean, share
from ..storybook import real_pictures
from .common import CAPABLE, Experiment, choose, repeated, result_scenes, right, tuning_scenes

FORM = "place and size"
NEAR = 0.05  # of the picture's side, that a place and a width may be off


@dataclass(frozen=True)
class Settings:
    """scenes: held-out ones; counts: of components, those beyond the CLIP's dimensions left out."""

    scenes: int = 64
    counts: tuple[int, ...] = (1, 2, 3, 5, 8, 12, 20, 30, 40, 80, 120, 160, 192)
    steps: int = 25
    guidances: tuple[float, ...] = (1.0, 2.0, 3.0)
    tuning: int = 32


def run(context: Context, settings: Settings) -> Result:
    """Attribute accuracy by number of components."""
    try:
        basis = basis_of(context.clip)
    except ValueError as error:
        return Result(notes=[f"Not run: {error}."])
    counts = [count for count in settings.counts if count <= basis.dim]
    options = {"noise_per_item": False, "sampler": "ddim", "steps": settings.steps, "seed": 4}
    tuning = tuning_scenes(settings.tuning, offset=4)
    whole = context.embed(real_pictures(tuning))

    def score(guidance: float) -> float:
        made = context.decode(whole, guidance_scale=guidance, what="choose guidance", **options)
        kept = right(context.judge, made, tuning)["all"]
        return sum(kept) / len(kept)

    guidance, chosen = choose(settings.guidances, score, "guidance (score: attributes from all of z_i)", len(tuning))
    scenes = result_scenes(settings.scenes, offset=4)
    pictures = real_pictures(scenes)
    rows = project(context.embed(pictures), basis, counts, unit_norm=context.clip.config.normalised)
    made = context.decode(rows, guidance_scale=guidance, what="decode components", **options)
    many = repeated(scenes, len(counts))
    found = right(context.judge, made, many)
    found[FORM] = [near(seen["place"], scene) for seen, scene in zip(readings(context.reader, made), many, strict=True)]
    heads = (*HEADS, "all", FORM)
    shares = {head: [share(found[head][i :: len(counts)]) for i in range(len(counts))] for head in heads}
    lines = [
        [str(count), f"{basis.explained(count):.1%}", *(shares[head][i].shown("%") for head in heads)]
        for i, count in enumerate(counts)
    ]
    plot = line_plot(
        {
            head: [Point(c, m.value, m.low, m.high) for c, m in zip(counts, shares[head], strict=True)]
            for head in (*HEADS, FORM)
        },
        "components",
        "right",
        log_x=True,
        percent=True,
    )
    by_scene = made.unflatten(0, (len(scenes), len(counts)))
    grid = labelled_grid(
        [torch.cat([by_scene[i], pictures[i : i + 1]]) for i in range(min(6, len(scenes)))],
        column_labels=[*map(str, counts), "input"],
    )
    half = {head: _first_at(counts, [m.value for m in shares[head]], 0.5) for head in (*HEADS, FORM)}
    ceiling = Check("all three attributes from all components", shares["all"][-1], CAPABLE)
    ahead = {head: lead(found[head], found[FORM], len(counts), CHANCE[head]) for head in HEADS}
    return Result(
        checks=[ceiling],
        tables=[
            chosen,
            Table(f"{len(scenes)} held-out scenes", ["components", "variance", *HEADS, "all three", FORM], lines),
            Table(
                f"How much earlier than {FORM}",
                ["", "half of the final accuracy, for good, from", "lead in share of the final accuracy, mean of rows"],
                [[head, str(half[head]), ahead[head].shown("%")] for head in HEADS] + [[FORM, str(half[FORM]), ""]],
            ),
        ],
        figures=[
            Figure("pca", "Six scenes through their first components, one noise.", grid),
            Figure("pca_curve", "Attributes by components.", plot),
        ],
        paper=[_verdict(half, ahead, ceiling)],
        notes=[
            f"One shared noise, DDIM, {settings.steps} steps, guidance {guidance:g}, no caption. {FORM.capitalize()}: "
            f"as the reader measures them, each within {NEAR:.0%} of the picture's side. A lead is of the same scenes: "
            "accuracy less what guessing gives, as a share of the accuracy from all components."
        ],
    )


CHANCE = {head: 1 / len(classes) for head, classes in HEADS.items()}


def near(place: tuple[float, float, float], scene: Scene) -> bool:
    """Whether a reading's x, y and width are those of a scene's first thing, to NEAR."""
    thing = scene.things[0]
    return all(abs(a - b) <= NEAR for a, b in zip(place, (thing.x, thing.y, thing.width), strict=True))


def lead(coarse: list[bool], fine: list[bool], counts: int, chance: float) -> Measured:
    """How much more of its final accuracy one thing has than another, mean over numbers of components, paired by
    scene: both are lists of (scenes * counts), scene by scene. chance: the first's by guessing; the other's is nil."""

    def risen(hits: list[bool], floor: float) -> list[float]:
        final = max(sum(hits[counts - 1 :: counts]) * counts / len(hits) - floor, 1 / len(hits))
        rows = (hits[start : start + counts] for start in range(0, len(hits), counts))
        return [(sum(row) / counts - floor) / final for row in rows]

    return mean([a - b for a, b in zip(risen(coarse, chance), risen(fine, 0.0), strict=True)], signed=True)


def _first_at(counts: list[int], values: list[float], level: float) -> int | None:
    """The first count from which on the values stay at or above `level` of the last one; None if the last is 0."""
    if values[-1] == 0.0:
        return None
    below = [i for i, value in enumerate(values) if value < level * values[-1]]
    return counts[below[-1] + 1] if below else counts[0]


def _verdict(half: dict[str, int | None], ahead: dict[str, Measured], ceiling: Check) -> str:
    if ceiling.verdict == "missed":
        return (
            "Says nothing about Fig. 7: from all components this decoder paints all three attributes right in "
            f"{ceiling.measured.shown('%')} only."
        )
    if None in half.values():
        return "Undecided on Fig. 7: some attribute, or place and size, is not even there with all components."
    told = ", ".join(f"the {name} from {count}" for name, count in sorted(half.items(), key=lambda item: item[1]))
    told = f"Half of the final accuracy is there, for good, with so many components: {told}{ceiling.proviso}."
    first = ahead["object"]  # what the paper's sentence is about: kinds of things, and their exact form
    later = [name for name, each in ahead.items() if each.high < 0]
    unclear = [name for name, each in ahead.items() if each.low <= 0 <= each.high]
    if unclear and first.low > 0:
        told += f" Of {_listed(unclear)} it is undecided whether it comes before the exact form."
    if first.low > 0 and later:
        return f"Only partly agrees with Fig. 7: the object before its exact form, {_listed(later)} after it. {told}"
    if first.low > 0:
        return f"Agrees with Fig. 7: the object comes before its exact form. {told}"
    if first.high < 0:
        return f"Contradicts Fig. 7 here: the object comes after its exact form. {told}"
    return f"Undecided on Fig. 7: whether the object comes before its exact form. {told}"


def _listed(names: list[str]) -> str:
    return " and ".join(f"the {name}" for name in names)


EXPERIMENT = Experiment(
    "pca",
    "Principal components",
    "§4, Fig. 7: early components hold coarse meaning, later ones the exact form",
    Settings(),
    Settings(scenes=12, counts=(1, 3, 8, 12, 20, 40, 80, 192), steps=20, guidances=(1.0, 2.0), tuning=8),
    run,
    shown=("pca",),
)
