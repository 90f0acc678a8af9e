"""How much the prior matters: Fréchet distance of three ways to feed a decoder (§5.1)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ...embeddings import text_as_embedding
from ...pictures.drawing import labelled_grid
from ...stages import Decoder
from ...storybook.scenes import Scene
from ..context import Context
from ..judge import features_of
from ..results import Figure, Result, Table
from ..statistics import Measured, Reference, frechet_over_seeds, plain, share
from ..storybook import captions_of, real_pictures
from .common import Experiment, result_scenes, right, tuning_scenes

FULL_STACK, TEXT_DECODER, ZERO_SHOT, SHIPPED = (
    "full stack (small decoder)",
    "text-embedding decoder",
    "text embedding, zero-shot",
    "full stack (shipped decoder)",
)
READABLE = 0.2  # share of right pictures below which distances say little
PAPER = {FULL_STACK: 7.99, TEXT_DECODER: 9.16, ZERO_SHOT: 16.55}


@dataclass(frozen=True)
class Settings:
    """samples a seed, of as many held-out captions; guidance is chosen per way on `tuning` training captions."""

    samples: int = 1000
    seeds: int = 3
    steps: int = 25
    guidances: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0)
    tuning: int = 300
    repeats: int = 100


def run(context: Context, settings: Settings) -> Result:
    """Fréchet distances on the judge's features, and attributes right beside them."""
    ways = {
        FULL_STACK: (context.sibling("image"), True),
        TEXT_DECODER: (context.sibling("text"), False),
        ZERO_SHOT: (context.sibling("image"), False),
        SHIPPED: (context.decoder, True),
    }
    real = result_scenes(settings.samples, offset=50)
    reference = Reference(features_of(context.judge, real_pictures(real)))
    floors = [
        features_of(context.judge, real_pictures(result_scenes(settings.samples, offset=51 + seed)))
        for seed in range(settings.seeds)
    ]
    rows, distances, correct, shown = [], {}, {}, []
    for name, (decoder, uses_prior) in ways.items():
        guidance, tried = _choose_guidance(context, name, decoder, uses_prior, settings)
        made = [
            _samples(context, name, decoder, uses_prior, guidance, seed, settings) for seed in range(settings.seeds)
        ]
        features = [features_of(context.judge, pictures) for pictures in made]
        distances[name] = frechet_over_seeds(reference, features, settings.repeats)
        hits = [
            hit
            for seed, pictures in enumerate(made)
            for hit in right(context.judge, pictures, _scenes(seed, settings))["all"]
        ]
        correct[name] = share(hits).value
        single = [reference.frechet(one) for one in features]
        rows.append(
            [
                name,
                f"{PAPER[name]:.2f}" if name in PAPER else "",
                distances[name].shown(),
                f"{plain(min(single))} to {plain(max(single))}",
                share(hits).shown("%"),
                f"{guidance:g} ({tried})",
            ]
        )
        shown.append(made[0][:10])
    floor = frechet_over_seeds(reference, floors, settings.repeats)
    rows.append(["real against real (floor)", "", floor.shown(), "", "", ""])
    columns = [
        "",
        "paper's FID",
        "Fréchet distance",
        "seeds",
        "all attributes right",
        "guidance (distance by guidance)",
    ]
    return Result(
        tables=[Table(f"{settings.samples} samples a seed, {settings.seeds} seeds", columns, rows)],
        figures=[Figure("prior_importance", "The same captions, four ways.", labelled_grid(shown, list(ways)))],
        paper=_verdict(distances, correct),
        notes=_notes(context, settings),
    )


def _scenes(seed: int, settings: Settings) -> list[Scene]:
    return result_scenes(settings.samples, offset=60 + seed)


def paint(
    context: Context, decoder: Decoder, uses_prior: bool, captions: list[str], guidance: float, seed: int, steps: int
) -> Tensor:
    """Pictures of captions, by the prior's embedding or by the text's own in its place; the caption is read as well."""
    if uses_prior:
        embed, text = context.imagine(captions, seed)
    else:
        text = context.clip.encode_text(captions)
        embed = text_as_embedding(text)
    return context.decode(
        embed, text, decoder=decoder, seed=seed, guidance_scale=guidance, steps=steps, what="importance of the prior"
    )


def _samples(
    context: Context, name: str, decoder: Decoder, uses_prior: bool, guidance: float, seed: int, settings: Settings
) -> Tensor:
    """One seed's pictures, kept in the run folder: of everything in the report they take longest."""
    captions = captions_of(_scenes(seed, settings))

    def make() -> dict[str, Tensor]:
        made = paint(context, decoder, uses_prior, captions, guidance, 1_000_000 * (seed + 1), settings.steps)
        return {"pictures": (made * 255).round().to(torch.uint8)}

    key = context.key(name, guidance, seed, settings.samples, settings.steps)
    return context.store.tensors("prior_importance", key, make)["pictures"].float() / 255


def _choose_guidance(
    context: Context, name: str, decoder: Decoder, uses_prior: bool, settings: Settings
) -> tuple[float, str]:
    """The guidance of the smallest distance on training captions, and all that were tried."""
    captions = captions_of(tuning_scenes(settings.tuning, offset=50))
    reference = Reference(features_of(context.judge, real_pictures(tuning_scenes(settings.tuning, offset=51))))

    def measure(guidance: float) -> dict[str, Tensor]:
        made = paint(context, decoder, uses_prior, captions, guidance, 7, settings.steps)
        return {"distance": torch.tensor(reference.frechet(features_of(context.judge, made)))}

    found = {}
    for guidance in settings.guidances:
        key = context.key(name, guidance, settings.tuning, settings.steps)
        found[guidance] = float(context.store.tensors("prior_guidance", key, lambda g=guidance: measure(g))["distance"])
    return min(found, key=found.get), ", ".join(f"{g:g}: {plain(value)}" for g, value in found.items())


def _verdict(distances: dict[str, Measured], correct: dict[str, float]) -> list[str]:
    """correct: each way's share of pictures with all attributes right."""
    order = [FULL_STACK, TEXT_DECODER, ZERO_SHOT]
    said = []
    for nearer, farther in pairwise(order):
        told = f"{nearer} {plain(distances[nearer].value)}, {farther} {plain(distances[farther].value)}"
        paper = f"{PAPER[nearer]:.2f} < {PAPER[farther]:.2f}"
        if distances[nearer].high < distances[farther].low:
            said.append(f"Agrees with §5.1 ({paper}): {told}.")
        elif distances[farther].high < distances[nearer].low:
            said.append(f"Contradicts §5.1 ({paper}) here: {told}.")
        else:
            said.append(f"Undecided on §5.1 ({paper}), the intervals overlap: {told}.")
    if (best := max(correct[name] for name in order)) < READABLE:
        said.append(
            f"The small decoders are trained too little for either to speak about the paper: at best {best:.0%} of "
            "their pictures show what was asked for."
        )
    return said


def _notes(context: Context, settings: Settings) -> list[str]:
    recipe = context.budget.sibling
    return [
        f"The small decoders are the shipped one at half its width, trained alike: {recipe.steps} steps of "
        f"{recipe.batch}, {recipe.steps * recipe.batch:,} pictures each. One was given image embeddings, the other "
        "text embeddings; both read captions (dropped half of the time) too. The shipped decoder is larger and was "
        "trained for longer: it is no part of the comparison.",
        f"Distances on the judge's 256 features, to {settings.samples} other held-out renders; {settings.steps} steps "
        "of the stack's own sampler. A distance of so few samples is biased upward: the floor says by how much. "
        "Intervals by resampling samples, not the reference.",
    ]


EXPERIMENT = Experiment(
    "prior_importance",
    "Importance of the prior",
    "§5.1: FID 7.99 full stack, 9.16 text-embedding decoder, 16.55 zero-shot",
    Settings(),
    Settings(samples=60, seeds=2, steps=12, guidances=(1.0, 2.5), tuning=40, repeats=50),
    run,
)
