"""The typographic attack: CLIP reads the word, the decoder still paints the object (§4, Fig. 6)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ...clip.zero_shot import classify
from ...pictures.drawing import labelled_grid
from ...storybook.scenes import WORDS, Scene
from ..context import Context
from ..reader import readings
from ..results import Figure, Result, Table
from ..statistics import mean, share
from ..storybook import real_pictures
from .common import Experiment, repeated, result_scenes


@dataclass(frozen=True)
class Settings:
    """scenes: held-out lettered ones whose word is not their object's, each with `seeds` variations."""

    scenes: int = 100
    seeds: int = 4
    steps: int = 50


def run(context: Context, settings: Settings) -> Result:
    """What zero-shot CLIP says with and without the card, and what variations show."""
    lettered = attacked(settings.scenes)
    plain = [replace(scene, word=None) for scene in lettered]
    pictures, rows = real_pictures(lettered), []
    for name, scenes, shown in (("with the card", lettered, pictures), ("without", plain, real_pictures(plain))):
        chances = classify(context.clip, shown, list(map(label, WORDS)))
        picks = [WORDS[i] for i in chances.argmax(1).tolist()]
        flips = [pick == scene.word for pick, scene in zip(picks, lettered, strict=True)]
        keeps = [pick == scene.things[0].kind for pick, scene in zip(picks, scenes, strict=True)]
        of_word = mean([float(chances[i, WORDS.index(scene.word)]) for i, scene in enumerate(lettered)])
        if name == "with the card":
            flipped = share(flips)
        rows.append([name, share(keeps).shown("%"), share(flips).shown("%"), f"{of_word.value:.1%}"])
    made = _variations(context, pictures, settings)
    seen, many = readings(context.reader, made), repeated(lettered, settings.seeds)
    groups = len(lettered)
    kept = share([one["object"] == scene.things[0].kind for one, scene in zip(seen, many, strict=True)], groups)
    turned = share([one["object"] == scene.word for one, scene in zip(seen, many, strict=True)], groups)
    letters = share([one["word"] == scene.word for one, scene in zip(seen, many, strict=True)], groups)
    ceiling = readings(context.reader, pictures)
    own = share([one["object"] == scene.things[0].kind for one, scene in zip(ceiling, lettered, strict=True)])
    painted = [
        ["keep the object", kept.shown("%")],
        ["show the object that the word names", turned.shown("%")],
        ["still have the word on them", letters.shown("%")],
        ["(the reader finds the object on the inputs)", own.shown("%")],
    ]
    first = [made[k :: settings.seeds][:8] for k in range(settings.seeds)]
    grid = labelled_grid([pictures[:8], *first], ["input", *["variation"] * settings.seeds])
    return Result(
        tables=[
            Table(
                f"Zero-shot CLIP, {groups} pictures, {len(WORDS)} labels", ["", "object", "word", "mean P(word)"], rows
            ),
            Table(f"Variations, {settings.seeds} of each", ["", "share"], painted),
        ],
        figures=[Figure("typographic", "Pictures with another thing's name on them, and variations.", grid)],
        paper=[_verdict(flipped.value, kept.value, turned.value)],
        notes=[
            "This CLIP learned captions that quote the word and name the object at once, which OpenAI's did not. "
            f"Variations: eta 1 from the inverted x_T, no caption, guidance 1, {settings.steps} steps."
        ],
    )


def attacked(count: int) -> list[Scene]:
    """Held-out lettered scenes whose word is not their own object's name."""
    scenes = result_scenes(3 * count, "word", offset=92)
    return [scene for scene in scenes if scene.word != scene.things[0].kind][:count]


def label(word: str) -> str:
    """A zero-shot label."""
    return f"{'an' if word[0] in 'aeio' else 'a'} {word}"


def _variations(context: Context, pictures: Tensor, settings: Settings) -> Tensor:
    embed = context.embed(pictures)
    noise = context.invert(pictures, embed, "invert, typographic", steps=settings.steps, refine=0)
    return context.decode(
        replace(embed, vector=embed.vector.repeat_interleave(settings.seeds, 0)),
        noise=replace(noise, x_T=noise.x_T.repeat_interleave(settings.seeds, 0)),
        seed=10,
        eta=1.0,
        what="vary, typographic",
    )


def _verdict(flipped: float, kept: float, turned: float) -> str:
    told = (
        f"zero-shot flips to the word in {flipped:.0%}, variations keep the object in {kept:.0%} and turn into what "
        f"the word names in {turned:.0%}"
    )
    if flipped < 0.5:
        return f"Differs from Fig. 6: this CLIP is seldom fooled by the word, so there is little to resist ({told})."
    if kept > turned:
        return f"Agrees with Fig. 6: {told}."
    return f"Contradicts Fig. 6 here: {told}."


EXPERIMENT = Experiment(
    "typographic",
    "Limits: typographic attack",
    "§4, Fig. 6: P(iPod) 99.98 %, yet variations paint apples",
    Settings(),
    Settings(scenes=12, seeds=2, steps=20),
    run,
)
