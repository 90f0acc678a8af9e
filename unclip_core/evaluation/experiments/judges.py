"""How well the judges see: their accuracy on held-out renders is the ceiling of every share in the report. And whether
the trained judge and the fitter, which was not trained, say the same of the stack's own samples: of those that the
fitter's thresholds were chosen on, and of others."""

from __future__ import annotations

from dataclasses import dataclass

from ...storybook.scenes import Scene
from ..context import Context
from ..judge import HEADS
from ..reader import readings, truth_of
from ..results import Result, Table
from ..statistics import kappa, share
from ..storybook import captions_of, real_pictures
from .common import Experiment, judged, result_scenes, right, truth


@dataclass(frozen=True)
class Settings:
    """scenes: held-out renders of each kind. samples: of the stack, of one object, that two judges are asked about, for
    each of two seeds. steps: of the decoder, the stack's own number for None."""

    scenes: int = 500
    samples: int = 500
    steps: int | None = 25


def run(context: Context, settings: Settings) -> Result:
    """Judge and reader on renders."""
    scenes, lettered = result_scenes(settings.scenes), result_scenes(settings.scenes, "word")
    rows = [
        [f"judge: {head}", share(hits).shown("%")]
        for head, hits in right(context.judge, real_pictures(scenes), scenes).items()
    ]
    for label, group, heads in (
        ("one object", scenes, (*HEADS, "word", "size", "position")),
        ("lettered", lettered, (*HEADS, "word")),
    ):
        seen = readings(context.reader, real_pictures(group))
        for head in heads:
            hits = [found[head] == truth_of(scene)[head] for found, scene in zip(seen, group, strict=True)]
            rows.append([f"reader, {label}: {head}", share(hits).shown("%")])
    for label, group in (("one object", scenes), ("lettered", lettered)):
        found = context.fitted(real_pictures(group))
        for head in HEADS:
            hits = [said[head] == truth_of(scene)[head] for said, scene in zip(found, group, strict=True)]
            rows.append([f"fitter, {label}: {head}", share(hits).shown("%")])
        hits = [said == truth(scene) for said, scene in zip(found, group, strict=True)]
        rows.append([f"fitter, {label}: all", share(hits).shown("%")])
    ceiling = next(shown for name, shown in rows if name == "judge: all")
    samples = {meant: _agreement(context, settings, seed) for meant, seed in SAMPLES.items()}
    return Result(
        tables=[
            Table(f"{settings.scenes} held-out renders of each kind", ["judged", "right"], rows),
            Table(
                f"Judge and fitter on {settings.samples} samples of held-out captions, twice",
                ["samples", "what is said", "the same", "Cohen's kappa"],
                [[meant, *row] for meant, table in samples.items() for row in table],
            ),
        ],
        paper=[_summary(ceiling, samples["others"])],
        notes=[
            "The fitter is not trained at all: it draws objects and backgrounds with the renderer until the picture is "
            "explained best, and says 'none' where too little of it is. Its agreement with the judge is on samples of "
            "the whole stack, right ones and wrong ones; kappa is what of it their habits alone would not give. Its "
            "thresholds were chosen on samples of the first kind, so the second kind is what its agreement is worth.",
            "It draws no cards with words: on lettered pictures the card hides part of the object, and its numbers "
            "there say how far it may be believed. Words are judged by the reader alone.",
            "Judge and reader are small convolutional networks trained on renders alone, never on samples, CLIP or a "
            "held-out triple. The judge has a class 'none of these' per attribute, so that a smudge is not its nearest "
            "object.",
        ],
    )


def _summary(ceiling: str, table: list[list[str]]) -> str:
    """What the first page says. table: of samples that no threshold was chosen on."""
    same = ", ".join(f"{name} in {shown}" for name, shown, _ in table if name in HEADS)
    return (
        f"On renders the judge is right in all three attributes in {ceiling}. Of the stack's samples, judge and fitter "
        f"(which is not trained) name the same {same}."
    )


SAMPLES = {"those its thresholds were chosen on": 10, "others": 20}  # seeds


def _agreement(context: Context, settings: Settings, seed: int) -> list[list[str]]:
    scenes = result_scenes(settings.samples, offset=83 + seed)
    embed, text = context.imagine(captions_of(scenes), seed=1_000_000 * (seed - 10) + 10)
    made = context.decode(
        embed, text, seed=1_000_000 * (seed - 10) + 10, steps=settings.steps, what="samples to agree on"
    )
    one, other = judged(context.judge, made), context.fitted(made)
    rows = [["all three right", *agreement(*(_all_right(seen, scenes) for seen in (one, other)))]]
    for head in HEADS:
        rows.append([head, *agreement(*([said[head] for said in seen] for seen in (one, other)))])
    return rows


def agreement(one: list, other: list) -> list[str]:
    """How often two judges say the same, and kappa, as text."""
    same, beyond = kappa(one, other)
    return [same.shown("%"), beyond.shown()]


def _all_right(seen: list[dict[str, str]], scenes: list[Scene]) -> list[bool]:
    return [said == truth(scene) for said, scene in zip(seen, scenes, strict=True)]


EXPERIMENT = Experiment(
    "judges",
    "The judges",
    "not in the paper: people judged there",
    Settings(),
    Settings(scenes=200, samples=100, steps=20),
    run,
)
