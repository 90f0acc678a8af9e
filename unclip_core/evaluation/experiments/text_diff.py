"""Text diffs: z_i turned toward the difference of two captions, x_T kept (§3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...embeddings import text_diff
from ...pictures.drawing import labelled_grid
from ...types import Embedding, GivenNoise
from ..context import Context
from ..reader import readings
from ..results import Check, Figure, Result, Table
from ..statistics import Measured, paired_difference, share
from ..storybook import real_pictures
from .common import Experiment, judged, result_scenes, tuning_scenes
from .edits import AIMED, KINDS, Edit, edits_of

SPARE = 16  # edits beyond the measured ones that controls are taken from
READ = ("size", "word", "position")  # kinds that the reader judges: the judge does not see them


@dataclass(frozen=True)
class Settings:
    """edits: of each kind, on held-out scenes; theta and guidance are chosen on `tuning` training scenes a kind."""

    edits: int = 48
    steps: int = 30
    tuning: int = 24
    thetas: tuple[float, ...] = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
    guidances: tuple[float, ...] = (1.0, 1.5, 2.0)


def run(context: Context, settings: Settings) -> Result:
    """Every kind of edit, and the turn that another edit asks for."""
    rows, controls, done, sheets, exact = [], {}, {}, [], ""
    for kind in KINDS:
        theta, guidance = _choose(context, kind, settings)
        edits = edits_of(kind, settings.edits, result_scenes)
        pictures, embed, noise = _start(context, edits, guidance, settings)
        turned = turn(context, embed, edits, theta)
        made = context.decode(turned, noise=noise, what=f"text diff, {kind}")
        foreign = turn(context, embed, others_of(edits, edits_of(kind, settings.edits + SPARE, result_scenes)), theta)
        control = context.decode(foreign, noise=noise, what=f"control, {kind}")
        seen, away = (_see(context, kind, shown) for shown in (made, control))
        done[kind] = [edit.done(one) for edit, one in zip(edits, seen, strict=True)]
        controls[kind] = [edit.done(one) for edit, one in zip(edits, away, strict=True)]
        rows.append(
            [
                kind,
                f"{theta:g}",
                f"{guidance:g}",
                share([edit.changed(one) for edit, one in zip(edits, seen, strict=True)]).shown("%"),
                share([edit.others_stay(one) for edit, one in zip(edits, seen, strict=True)]).shown("%"),
                share(done[kind]).shown("%"),
                share(controls[kind]).shown("%"),
            ]
        )
        sheets += [pictures[:8], made[:8]]
        if kind == "word":
            exact = _letters(edits, seen)
    return _result(rows, done, controls, sheets, exact, settings)


def turn(context: Context, embed: Embedding, edits: list[Edit], theta: float) -> Embedding:
    """Each row turned by its own edit."""
    before, after = (context.clip.encode_text([getattr(edit, side) for edit in edits]) for side in ("before", "after"))
    return text_diff(embed, before, after, theta, theta, 1)


def others_of(edits: list[Edit], pool: list[Edit]) -> list[Edit]:
    """For each edit the next in the pool that asks for something else, round its end; the next at all if none does.

    pool: begins with `edits` and goes on.
    """
    found = []
    for index, edit in enumerate(edits):
        order = [*pool[index + 1 :], *pool[:index]] or [edit]
        found.append(next((other for other in order if other.wanted != edit.wanted), order[0]))
    return found


def _choose(context: Context, kind: str, settings: Settings) -> tuple[float, float]:
    """(theta, guidance) with the most edits done on training scenes; the smallest of equals."""
    edits, best, chosen = edits_of(kind, settings.tuning, tuning_scenes), -1.0, (0.0, 0.0)
    for guidance in settings.guidances:
        _, embed, noise = _start(context, edits, guidance, settings)
        for theta in settings.thetas:
            made = context.decode(turn(context, embed, edits, theta), noise=noise, what=f"choose theta, {kind}")
            seen = _see(context, kind, made)
            score = sum(edit.done(one) for edit, one in zip(edits, seen, strict=True)) / len(edits)
            if score > best:
                best, chosen = score, (theta, guidance)
    return chosen


def _start(
    context: Context, edits: list[Edit], guidance: float, settings: Settings
) -> tuple[Tensor, Embedding, GivenNoise]:
    """Pictures of the edits' scenes, their z_i and x_T."""
    pictures = real_pictures([edit.scene for edit in edits])
    embed = context.embed(pictures)
    noise = context.invert(pictures, embed, steps=settings.steps, refine=0, guidance_scale=guidance)
    return pictures, embed, noise


def _see(context: Context, kind: str, pictures: Tensor) -> list[dict[str, Any]]:
    return readings(context.reader, pictures) if kind in READ else judged(context.judge, pictures)


def _letters(edits: list[Edit], seen: list[dict[str, Any]]) -> str:
    added = [(edit, one) for edit, one in zip(edits, seen, strict=True) if edit.wanted != "none"]
    right = share([one["word"] == edit.wanted for edit, one in added])
    removed = [(edit, one) for edit, one in zip(edits, seen, strict=True) if edit.wanted == "none"]
    text = f"Of the added words {right.shown('%')} are read as the very word asked for"
    if removed:
        gone = share([edit.done(one) for edit, one in removed])
        text += f"; of the removals alone {gone.shown('%')} are done"
    return text + "."


def _result(
    rows: list[list[str]],
    done: dict[str, list[bool]],
    controls: dict[str, list[bool]],
    sheets: list[Tensor],
    exact: str,
    settings: Settings,
) -> Result:
    hits, others = ([hit for kind in AIMED for hit in found[kind]] for found in (done, controls))
    aimed, control, lead = share(hits), share(others), paired_difference(hits, others)
    checks = [
        Check(f"changed and the others stay, mean of {', '.join(AIMED)}", aimed, 0.70),
        Check("the same when turned by another pair of captions", control, aimed.value / 2, "%", below=True),
    ]
    columns = ["kind", "theta", "guidance", "changed", "others stay", "both", "both, another pair"]
    labels = [label for kind in KINDS for label in ("input", kind)]
    return Result(
        checks=checks,
        tables=[Table(f"{settings.edits} edits of each kind on held-out scenes", columns, rows)],
        figures=[
            Figure("text_diff", "For each kind the inputs and, below, the edited.", labelled_grid(sheets, labels))
        ],
        paper=[_verdict(checks[0], control, lead)],
        notes=[
            f"Theta and guidance are those with the most edits done on {settings.tuning} training scenes of the kind. "
            f"{settings.steps} steps, eta 0, no caption; x_T by plain inversion at the same guidance. "
            "The control is turned by the same angle toward another edit of the kind that asks for something else: a "
            "random direction would say less, for most of it lies where no embedding does. "
            "Size, word and position are judged by the reader, with the others' object, colour and background.",
            exact,
        ],
    )


def _verdict(edited: Check, control: Measured, lead: Measured) -> str:
    """lead: the edits' share less the control's, on the same pictures."""
    aimed = edited.measured
    if lead.low > 0:
        return (
            f"Agrees with §3.3: the captions' difference edits ({aimed.value:.0%}) where that of another pair, at "
            f"the same angle, does not ({control.value:.0%}){edited.proviso}."
        )
    told = f"the captions' difference edits {aimed.value:.0%}, that of another pair {control.value:.0%}"
    if lead.high < 0:
        return f"Contradicts §3.3 here: {told}."
    return f"Undecided on §3.3: {told}, apart by {lead.shown('%')}{edited.proviso}."


EXPERIMENT = Experiment(
    "text_diff",
    "Text diffs",
    "§3.3: turning z_i by the difference of two captions edits the picture",
    Settings(),
    Settings(edits=8, steps=20, tuning=3, thetas=(0.35, 0.5), guidances=(1.0, 2.0)),
    run,
    shown=("text_diff",),
)
