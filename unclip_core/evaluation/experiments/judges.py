"""How well the judges see: their accuracy on held-out renders is the ceiling of every share in the report."""

from __future__ import annotations

from dataclasses import dataclass

from ..context import Context
from ..judge import HEADS
from ..reader import readings, truth_of
from ..results import Result, Table
from ..statistics import share
from ..storybook import real_pictures
from .common import Experiment, result_scenes, right


@dataclass(frozen=True)
class Settings:
    """scenes: held-out renders of each kind."""

    scenes: int = 500


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
    return Result(
        tables=[Table(f"{settings.scenes} held-out renders of each kind", ["judged", "right"], rows)],
        notes=[
            "Both are small convolutional networks trained on renders alone, never on samples, CLIP or a held-out "
            "triple. The judge has a class 'none of these' per attribute, so that a smudge is not its nearest object."
        ],
    )


EXPERIMENT = Experiment(
    "judges", "The judges", "not in the paper: people judged there", Settings(), Settings(scenes=200), run
)
