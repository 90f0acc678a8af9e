"""How much the prior matters: Fréchet distance of ways to feed a decoder, with decoders alike in all else (§5.1)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ...embeddings import text_as_embedding
from ...pictures.drawing import labelled_grid
from ...storybook.scenes import Scene
from ..context import Context
from ..judge import features_of
from ..results import Check, Figure, Result, Table
from ..statistics import Measured, Reference, frechet_difference, frechet_over_seeds, mean, plain, share
from ..storybook import captions_of, real_pictures
from .common import Experiment, result_scenes, right, tuning_scenes

FULL_STACK, TEXT_DECODER, ZERO_SHOT, CAPTION, SHIPPED = (
    "full stack (sibling)",
    "text-embedding decoder",
    "text embedding, zero-shot",
    "caption alone",
    "full stack (shipped decoder)",
)
ORDER = (FULL_STACK, TEXT_DECODER, ZERO_SHOT)  # the paper's
PAPER = {FULL_STACK: 7.99, TEXT_DECODER: 9.16, ZERO_SHOT: 16.55}


@dataclass(frozen=True)
class Settings:
    """samples a seed, of as many held-out captions; guidance is chosen per way on `tuning` training captions."""

    samples: int = 500
    seeds: int = 2
    steps: int = 25
    guidances: tuple[float, ...] = (1.0, 2.0, 3.0)
    tuning: int = 150
    repeats: int = 100


def run(context: Context, settings: Settings) -> Result:
    """Fréchet distances on the judge's features, and attributes right beside them."""
    reference = Reference(features_of(context.judge, real_pictures(result_scenes(settings.samples, offset=50))))
    trainings = range(1, context.budget.siblings.seeds + 1)
    rows, features, distances, correct, shown = [], {}, {}, {}, []
    for name in (*ORDER, CAPTION, SHIPPED):
        found = [_measured(context, name, training, reference, settings) for training in trainings[: _count(name)]]
        features[name] = [one.features for one in found]
        distances[name] = _over_trainings(reference, features[name], settings.repeats)
        correct[name] = share([hit for one in found for hit in one.hits], settings.samples * settings.seeds)
        single = [reference.frechet(each) for one in found for each in one.features]
        rows.append(
            [
                name,
                f"{PAPER[name]:.2f}" if name in PAPER else "",
                distances[name].shown(),
                f"{plain(min(single))} to {plain(max(single))}",
                correct[name].shown("%"),
                "; ".join(f"{one.guidance:g} ({one.tried})" for one in found),
            ]
        )
        shown.append(found[0].first)
    floor = frechet_over_seeds(reference, _floors(context, settings), settings.repeats)
    rows.append(["real against real (floor)", "", floor.shown(), "", "", ""])
    columns = [
        "",
        "paper's FID",
        "Fréchet distance",
        "seeds",
        "all attributes right",
        "guidance (distance by guidance)",
    ]
    apart = {pair: _apart(reference, *(features[name] for name in pair), settings.repeats) for pair in pairwise(ORDER)}
    gates = [sibling_gate(context, correct[name], name) for name in (CAPTION, FULL_STACK, TEXT_DECODER)]
    labels = [*ORDER, CAPTION, SHIPPED]
    return Result(
        checks=gates,
        tables=[
            Table(f"{settings.samples} samples a seed, {settings.seeds} seeds", columns, rows),
            Table(
                "How much nearer, on the same captions",
                ["", "difference of Fréchet distances"],
                [[f"{nearer}, less {farther}", each.shown()] for (nearer, farther), each in apart.items()],
            ),
            rounds_table(context),
        ],
        figures=[Figure("prior_importance", "The same captions, five ways.", labelled_grid(shown, labels))],
        paper=_verdict(distances, apart, gates),
        notes=[
            siblings_note(context),
            "All of them read captions, too. The shipped decoder was trained for far longer: it is no part of the "
            "comparison. 'Caption alone' is the sibling that was trained on captions only.",
            f"Distances on the judge's 256 features, to {settings.samples} other held-out renders; {settings.steps} "
            "steps of the stack's own sampler. A distance of so few samples is biased upward: the floor says by how "
            "much. " + _of_intervals(len(trainings)),
        ],
    )


@dataclass(frozen=True)
class Way:
    """What one way makes, of one training: features of each seed's samples, what of them is right, ten to be shown."""

    features: list[Tensor]
    hits: list[bool]
    guidance: float
    tried: str
    first: Tensor


def _count(name: str) -> int | None:
    """How many trainings a way is measured on: the shipped decoder is of one."""
    return 1 if name == SHIPPED else None


def _measured(context: Context, name: str, training: int, reference: Reference, settings: Settings) -> Way:
    guidance, tried = _choose_guidance(context, name, training, settings)
    features, hits, first = [], [], None
    for seed in range(settings.seeds):
        scenes = _scenes(seed, settings)
        start = 1_000_000 * (seed + 1)
        made = _painted(context, name, training, captions_of(scenes), guidance, start, settings.steps)
        features.append(features_of(context.judge, made))
        hits += right(context.judge, made, scenes)["all"]
        first = made[:10] if first is None else first
    return Way(features, hits, guidance, tried, first)


def _over_trainings(reference: Reference, found: list[list[Tensor]], repeats: int) -> Measured:
    """The distance: over several trainings the mean of theirs, whose spread is taken from them."""
    if len(found) == 1:
        return frechet_over_seeds(reference, found[0], repeats)
    return mean([frechet_over_seeds(reference, features, 1).value for features in found])


def _apart(reference: Reference, ones: list[list[Tensor]], others: list[list[Tensor]], repeats: int) -> Measured:
    """How much farther the one way is than the other, paired: over several trainings as `_over_trainings`."""
    if len(ones) == 1:
        return frechet_difference(reference, ones[0], others[0], repeats)
    pairs = zip(ones, others, strict=True)
    return mean([frechet_difference(reference, *pair, 1).value for pair in pairs], signed=True)


def _floors(context: Context, settings: Settings) -> list[Tensor]:
    return [
        features_of(context.judge, real_pictures(result_scenes(settings.samples, offset=51 + seed)))
        for seed in range(settings.seeds)
    ]


def sibling_gate(context: Context, correct: Measured, name: str) -> Check:
    """Whether a sibling was trained for long enough to say anything: one that paints nothing would be found far from
    the renders, or diverse, whatever it was told."""
    return Check(f"{name}, all three attributes right", correct, context.budget.siblings.enough)


def trained_too_little(gates: list[Check]) -> str:
    """Which decoders miss their gate, and what they have; "" for none."""
    missed = [gate for gate in gates if gate.verdict == "missed"]
    return " and ".join(f"{gate.name} in {gate.measured.value:.0%} at best" for gate in missed)


def rounds_table(context: Context) -> Table:
    """How the decoder on captions alone grew, on training scenes' captions."""
    plan, found = context.budget.siblings, context.siblings()
    rows = [
        [f"{each.steps:,}", f"{each.steps * plan.recipe.batch:,}", share([each.right], plan.captions).shown("%")]
        for each in found.rounds
    ]
    return Table(
        "The decoder on captions alone, measured as it was trained", ["steps", "pictures", "all attributes right"], rows
    )


def siblings_note(context: Context) -> str:
    """How the siblings were made."""
    plan, found = context.budget.siblings, context.siblings()
    spent = ", ".join(f"{name} {minutes:.0f}" for name, minutes in found.minutes.items())
    seeds = "one training seed" if plan.seeds == 1 else f"{plan.seeds} training seeds"
    ended = (
        f"where {plan.enough:.0%} of the decoder on captions alone's pictures were right"
        if found.rounds[-1].right >= plan.enough
        else f"by the budget, before {plan.enough:.0%} of the decoder on captions alone's pictures were right"
    )
    return (
        "The siblings begin with the shipped decoder's trunk, the weights through which conditions come in drawn "
        f"anew, and are trained alike for {found.steps:,} steps of {plan.recipe.batch} ({seeds}), which ended {ended}; "
        f"processor minutes: {spent}. One is given image embeddings, one text embeddings in their place (each dropped "
        f"{plan.recipe.embed_drop:.0%}, captions {plan.recipe.text_drop:.0%}), one captions alone."
    )


def _of_intervals(trainings: int) -> str:
    if trainings == 1:
        return (
            "Intervals by resampling samples, for differences those of the same captions; not the reference nor the "
            "training, of which there is one."
        )
    return f"Intervals by the spread of {trainings} trainings (Student's t)."


def _scenes(seed: int, settings: Settings) -> list[Scene]:
    return result_scenes(settings.samples, offset=60 + seed)


def _painted(
    context: Context, name: str, training: int, captions: list[str], guidance: float, seed: int, steps: int
) -> Tensor:
    """Pictures of captions by a way of a training; the caption is read as well."""
    decoders = context.siblings(training).decoders
    text = context.encode(captions)
    decoder, embed = {
        FULL_STACK: lambda: (decoders["image"], context.sample_prior(text, seed)[0]),
        TEXT_DECODER: lambda: (decoders["text"], text_as_embedding(text)),
        ZERO_SHOT: lambda: (decoders["image"], text_as_embedding(text)),
        CAPTION: lambda: (decoders["caption"], None),
        SHIPPED: lambda: (context.decoder, context.sample_prior(text, seed)[0]),
    }[name]()
    return context.decode(embed, text, decoder=decoder, seed=seed, guidance_scale=guidance, steps=steps, what=name)


def _choose_guidance(context: Context, name: str, training: int, settings: Settings) -> tuple[float, str]:
    """The guidance of the smallest distance on training captions, and all that were tried."""
    captions = captions_of(tuning_scenes(settings.tuning, offset=50))
    reference = Reference(features_of(context.judge, real_pictures(tuning_scenes(settings.tuning, offset=51))))
    found = {}
    for guidance in settings.guidances:
        made = _painted(context, name, training, captions, guidance, 7, settings.steps)
        found[guidance] = reference.frechet(features_of(context.judge, made))
    return min(found, key=found.get), ", ".join(f"{g:g}: {plain(value)}" for g, value in found.items())


def _verdict(distances: dict[str, Measured], apart: dict[tuple[str, str], Measured], gates: list[Check]) -> list[str]:
    """apart: how much farther the first of two is than the second, which the paper found farther. gates: whether the
    decoders were trained for long enough to be compared."""
    failed, provisos = trained_too_little(gates), "".join(gate.proviso for gate in gates)
    said = []
    for (nearer, farther), each in apart.items():
        told = f"{nearer} {plain(distances[nearer].value)}, {farther} {plain(distances[farther].value)}, "
        told += f"apart by {each.shown()}"
        paper = f"{PAPER[nearer]:.2f} < {PAPER[farther]:.2f}"
        if failed:
            said.append(f"Undecided on §5.1 ({paper}), trained too little to be compared: {failed}; {told}.")
        elif each.high < 0:
            said.append(f"Agrees with §5.1 ({paper}): {told}{provisos}.")
        elif each.low > 0:
            said.append(f"Contradicts §5.1 ({paper}) here: {told}{provisos}.")
        else:
            said.append(f"Undecided on §5.1 ({paper}): {told}{provisos}.")
    return said


EXPERIMENT = Experiment(
    "prior_importance",
    "Importance of the prior",
    "§5.1: FID 7.99 full stack, 9.16 text-embedding decoder, 16.55 zero-shot",
    Settings(),
    Settings(samples=40, seeds=1, steps=12, guidances=(1.0, 2.5), tuning=30, repeats=50),
    run,
    siblings=True,
    shown=("prior_importance",),
)
