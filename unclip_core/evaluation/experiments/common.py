"""What the experiments share: their scenes, the choice of a setting on training scenes, rows of tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from ...storybook.scenes import Scene
from ...storybook.shards import make_scenes
from ..context import Context
from ..judge import HEADS, Judge, verdicts
from ..results import Check, Result, Table
from ..statistics import share
from ..storybook import captions_of, real_pictures

TUNING_SEED, RESULT_SEED = 3100, 3000  # of scenes that settings are chosen on, and of those that results come from

Setting = TypeVar("Setting")


@dataclass(frozen=True)
class Experiment:
    """One of the paper's experiments. full, quick: its settings, a frozen dataclass; run: what it does with them.
    siblings: whether it asks for the decoders that only experiments need. shown: names of its figures that stand on the
    report's first page."""

    name: str
    title: str
    paper: str
    full: Any
    quick: Any
    run: Callable[[Context, Any], Result]
    siblings: bool = False
    shown: tuple[str, ...] = ()


def result_scenes(count: int, kind: str = "one", offset: int = 0) -> list[Scene]:
    """Held-out scenes; other offsets, other scenes."""
    return make_scenes(count, RESULT_SEED + offset, "heldout", kind)


def tuning_scenes(count: int, kind: str = "one", offset: int = 0) -> list[Scene]:
    """Training scenes, for choosing settings."""
    return make_scenes(count, TUNING_SEED + offset, "train", kind)


@dataclass(frozen=True)
class Limits:
    """Settings of the experiments on the decoder's limits, which decode so many `scenes` by `limited_ways`."""

    scenes: int = 100
    steps: int = 25
    guidance: float = 3.0


def limited_ways(context: Context, scenes: list[Scene], settings: Limits, what: str, seed: int) -> dict[str, Tensor]:
    """IMAGEs of the scenes by what the decoder is told of them, and the scenes' own renders, each named."""
    pictures = real_pictures(scenes)
    imagined, text = context.imagine(captions_of(scenes), seed=seed)
    told = {
        "caption alone": (None, text),
        "full stack": (imagined, text),
        "the true picture's z_i": (context.embed(pictures), None),
    }
    options = {"seed": seed, "steps": settings.steps, "guidance_scale": settings.guidance}
    made = {name: context.decode(*given, what=f"{what}, {name}", **options) for name, given in told.items()}
    return {**made, "renders": pictures}


CAPABLE = 0.70  # of pictures of one object, that a decoder must paint right before it says anything of two


def one_object_ceiling(context: Context, settings: Limits, seed: int) -> Check:
    """How often the same decoder, told the true z_i of one object in the same way, paints all three attributes right.

    A decoder that cannot paint one thing fails at two things and at words as well, whatever z_i holds: only where this
    is reached do the experiments on limits compare with the paper.
    """
    scenes = result_scenes(settings.scenes, offset=92)
    options = {"seed": seed, "steps": settings.steps, "guidance_scale": settings.guidance}
    made = context.decode(context.embed(real_pictures(scenes)), what="one object, true z_i", **options)
    return Check(
        "one object from its true z_i, all three attributes", share(right(context.judge, made, scenes)["all"]), CAPABLE
    )


def unfit(ceiling: Check) -> str:
    """Why a decoder says nothing about a limit; "" where it does."""
    if ceiling.verdict == "reached":
        return ""
    return (
        f"Says nothing about §7: from the true z_i of one object this decoder paints all three attributes right in "
        f"{ceiling.measured.shown('%')}, and must in {CAPABLE:.0%} by the whole interval before its failures are z_i's."
    )


def caption_alone(context: Context) -> str:
    """A sentence on how often the decoder was trained on a caption alone."""
    recipe = json.loads(context.entry.stages["decoder"].metadata.get("recipe", "{}"))
    if not recipe:
        return "How often the decoder was trained on a caption alone is not known."
    embed, text = recipe["embed_drop"], recipe["text_drop"]
    return (
        f"In its last run of training the decoder saw a caption alone in {embed * (1 - text):.1%} of the samples "
        f"(image embedding dropped {embed:.0%}, caption {text:.0%})."
    )


def truth(scene: Scene) -> dict[str, str]:
    """The attributes of a scene's first thing, as the judge names them."""
    thing = scene.things[0]
    return {"object": thing.kind, "colour": thing.colour, "background": scene.background}


def right(judge: Judge, pictures: Tensor, scenes: Sequence[Scene]) -> dict[str, list[bool]]:
    """Per attribute, and "all" three: which pictures (B, 64, 64, 3) show what their scenes have."""
    found: dict[str, list[bool]] = {head: [] for head in (*HEADS, "all")}
    for seen, scene in zip(judged(judge, pictures), scenes, strict=True):
        hits = {head: seen[head] == value for head, value in truth(scene).items()}
        for head, hit in {**hits, "all": all(hits.values())}.items():
            found[head].append(hit)
    return found


def judged(judge: Judge, pictures: Tensor) -> list[dict[str, str]]:
    """`verdicts` in chunks."""
    return [seen for part in pictures.split(256) for seen in verdicts(judge, part)]


def repeated(scenes: Sequence[Scene], count: int) -> list[Scene]:
    """Every scene `count` times in a row, as the rows of a batch with that `count`."""
    return [scene for scene in scenes for _ in range(count)]


def choose(
    settings: Sequence[Setting], score: Callable[[Setting], float], name: str, count: int
) -> tuple[Setting, Table]:
    """The setting of the highest score, the first of equals, and the table that shows the choice."""
    scores = [score(setting) for setting in settings]
    best = scores.index(max(scores))
    rows = [
        [_shown(setting), f"{value:.3g}", "chosen" if index == best else ""]
        for index, (setting, value) in enumerate(zip(settings, scores, strict=True))
    ]
    return settings[best], Table(f"Fixed on {count} training scenes", [name, "score", ""], rows)


def _shown(setting: Any) -> str:
    return ", ".join(f"{value:g}" for value in setting) if isinstance(setting, tuple) else f"{setting:g}"
