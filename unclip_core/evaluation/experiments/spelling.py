"""Spelling: lettered words (§7, limitations)."""

from __future__ import annotations

from ...pictures.drawing import labelled_grid
from ..context import Context
from ..reader import readings
from ..results import Check, Figure, Result, Table
from ..statistics import Measured, share
from .common import CAPABLE, Experiment, Limits, limited_ways, one_object_ceiling, result_scenes, unfit


def run(context: Context, settings: Limits) -> Result:
    """Does the word come out, from a caption and from the true picture's z_i?"""
    scenes = result_scenes(settings.scenes, "word", offset=91)
    ways = limited_ways(context, scenes, settings, "words", seed=9)
    ceiling, rows, exact = one_object_ceiling(context, settings, seed=9), [], {}
    for name, made in ways.items():
        seen = readings(context.reader, made)
        some = share([one["word"] != "none" for one in seen])
        right = share([one["word"] == scene.word for one, scene in zip(seen, scenes, strict=True)])
        exact[name] = right
        rows.append([name, some.shown("%"), right.shown("%")])
        if name == "full stack":
            # A prior that hears no caption would spell no word either.
            things = share([one["object"] == scene.things[0].kind for one, scene in zip(seen, scenes, strict=True)])
            heard = Check("the object beside the word, by the full stack", things, CAPABLE)
    grid = labelled_grid([made[:8] for made in ways.values()], list(ways))
    return Result(
        checks=[ceiling, heard],
        tables=[Table(f"{len(scenes)} held-out lettered scenes", ["", "some word", "the word asked for"], rows)],
        figures=[Figure("spelling", "Words on cards.", grid)],
        paper=[_verdict(exact, ceiling, heard)],
        notes=[
            "The reader chooses among 16 words and 'none', so it forgives bad letters that it can still tell apart. "
            f"Guidance {settings.guidance:g}, {settings.steps} steps, not tuned."
        ],
    )


def _verdict(exact: dict[str, Measured], ceiling: Check, heard: Check) -> str:
    """heard: whether the full stack paints the object that the same captions name."""
    if reason := unfit(ceiling):
        return reason
    if heard.verdict != "reached":
        return (
            f"Says nothing about §7: the full stack paints the object beside the word in {heard.measured.shown('%')}, "
            f"and must in {heard.target:.0%} by the whole interval before a wrong word is a matter of spelling."
        )
    told = ", ".join(f"{name} {value.value:.0%}" for name, value in exact.items())
    found = exact["full stack"].against(0.5 * exact["renders"].value)
    if found == "missed":
        return f"Agrees with §7: words are seldom spelt right ({told})."
    if found == "undecided":
        return f"Undecided on §7: whether words are spelt right half as often as on renders ({told})."
    return f"Contradicts §7 here: words of this small set come out ({told})."


EXPERIMENT = Experiment(
    "spelling",
    "Limits: spelling",
    "§7, Fig. 16: the model writes no coherent text",
    Limits(),
    Limits(scenes=12, steps=15),
    run,
)
