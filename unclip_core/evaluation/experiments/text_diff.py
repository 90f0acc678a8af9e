"""Text diffs: z_i turned toward the difference of two captions, x_T kept (§3.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...embeddings import text_diff
from ...pictures.drawing import labelled_grid
from ...types import Embedding, GivenNoise
from ..context import Context
from ..reader import readings
from ..results import Check, Figure, Result, Table
from ..statistics import Measured, share
from ..storybook import real_pictures
from .common import Experiment, judged, result_scenes, tuning_scenes
from .edits import AIMED, KINDS, Edit, edits_of

READ = ("size", "word", "position")  # kinds that the reader judges: the judge does not see them


@dataclass(frozen=True)
class Settings:
    """edits: of each kind, on held-out scenes; theta and guidance are chosen on `tuning` training scenes a kind."""

    edits: int = 48
    steps: int = 50
    tuning: int = 24
    thetas: tuple[float, ...] = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
    guidances: tuple[float, ...] = (1.0, 1.5, 2.0)


def run(context: Context, settings: Settings) -> Result:
    """Every kind of edit, and a random direction of the same angle."""
    rows, controls, done, sheets, exact = [], {}, {}, [], ""
    for kind in KINDS:
        theta, guidance = _choose(context, kind, settings)
        edits = edits_of(kind, settings.edits, result_scenes)
        pictures, embed, noise = _start(context, edits, guidance, settings)
        turned = turn(context, embed, edits, theta)
        made = context.decode(turned, noise=noise, what=f"text diff, {kind}")
        random = random_turn(embed, turned, seed=KINDS.index(kind))
        control = context.decode(random, noise=noise, what=f"control, {kind}")
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


def random_turn(embed: Embedding, turned: Embedding, seed: int) -> Embedding:
    """`embed` turned by the angles of `turned`, toward random directions at right angles to it; norms kept."""
    norms = embed.vector.norm(dim=1, keepdim=True)
    start, end = F.normalize(embed.vector, dim=1), F.normalize(turned.vector, dim=1)
    angle = (start * end).sum(1, keepdim=True).clamp(-1, 1).arccos()
    drawn = torch.randn(start.shape, generator=torch.Generator().manual_seed(seed))
    across = F.normalize(drawn - (drawn * start).sum(1, keepdim=True) * start, dim=1)
    return replace(embed, vector=norms * (angle.cos() * start + angle.sin() * across))


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
    aimed = share([hit for kind in AIMED for hit in done[kind]])
    control = share([hit for kind in AIMED for hit in controls[kind]])
    checks = [
        Check(f"changed and the others stay, mean of {', '.join(AIMED)}", aimed, 0.70),
        Check("the same for a random direction of the same angle", control, aimed.value / 2, "%", below=True),
    ]
    columns = ["kind", "theta", "guidance", "changed", "others stay", "both", "both, random direction"]
    labels = [label for kind in KINDS for label in ("input", kind)]
    return Result(
        checks=checks,
        tables=[Table(f"{settings.edits} edits of each kind on held-out scenes", columns, rows)],
        figures=[
            Figure("text_diff", "For each kind the inputs and, below, the edited.", labelled_grid(sheets, labels))
        ],
        paper=[_verdict(checks[0], control)],
        notes=[
            f"Theta and guidance are those with the most edits done on {settings.tuning} training scenes of the kind. "
            f"{settings.steps} steps, eta 0, no caption; x_T by plain inversion at the same guidance. "
            "Size, word and position are judged by the reader, with the others' object, colour and background.",
            exact,
        ],
    )


def _verdict(edited: Check, control: Measured) -> str:
    aimed = edited.measured
    if control.high < aimed.low:
        return (
            f"Agrees with §3.3: the captions' difference edits ({aimed.value:.0%}) where a random direction of "
            f"the same angle does not ({control.value:.0%}){edited.proviso}."
        )
    if aimed.value > control.value:
        return (
            f"Undecided on §3.3: the captions' difference edits {aimed.value:.0%}, a random direction "
            f"{control.value:.0%}; the intervals overlap."
        )
    return "Contradicts §3.3 here: the captions' difference does no better than a random direction."


EXPERIMENT = Experiment(
    "text_diff",
    "Text diffs",
    "§3.3: turning z_i by the difference of two captions edits the picture",
    Settings(),
    Settings(edits=8, steps=20, tuning=3, thetas=(0.35, 0.5), guidances=(1.0, 2.0)),
    run,
)
