"""The autoregressive prior beside the diffusion prior (§2.2, Table 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ...pictures.drawing import labelled_grid
from ...types import Embedding, TextEncoding
from ..context import CHUNK, Context
from ..results import Check, Figure, Result, Table
from ..statistics import Measured, Reference, frechet_difference, frechet_over_seeds, mean, share
from ..storybook import captions_of, real_pictures
from .common import CAPABLE, Experiment, result_scenes, right

Sample = Callable[[TextEncoding, int], tuple[Embedding, float]]  # of texts and a seed; and seconds a sample


@dataclass(frozen=True)
class Settings:
    """captions a seed; `decoded` of them are also painted, in `steps` steps."""

    captions: int = 1000
    seeds: int = 3
    decoded: int = 200
    steps: int = 25
    repeats: int = 100


def run(context: Context, settings: Settings) -> Result:
    """Similarity, distance, time, and what the decoder makes of both."""
    priors: dict[str, Sample] = {"diffusion": context.sample_prior}
    sizes = {"diffusion": context.entry.stages["prior"].parameters}
    if context.ar_prior is None:
        return Result(
            notes=[f"The model {context.entry.name!r} has no autoregressive prior: there is nothing to compare."]
        )
    priors["autoregressive"] = lambda text, seed: context.sample_prior(text, seed, autoregressive=True, candidates=2)
    sizes["autoregressive"] = context.entry.stages["ar_prior"].parameters
    reference = embeddings_reference(context, settings.captions)
    rows, numbers, features, shown, works = [], {}, [], [], []
    for name, sample in priors.items():
        made = [sampled(context, sample, settings.captions, seed) for seed in range(settings.seeds)]
        numbers[name] = Scores.of(reference, made, settings.repeats)
        features.append([scaled(one.vectors) for one in made])
        scenes = result_scenes(settings.captions, offset=70)[: settings.decoded]
        embed = Embedding(made[0].vectors[: settings.decoded], context.clip.clip_id)
        text = context.encode(captions_of(scenes))
        pictures = context.decode(embed, text, seed=5, steps=settings.steps, what=f"decode {name}")
        painted = share(right(context.judge, pictures, scenes)["all"])
        rows.append([name, f"{sizes[name] / 1e6:.2f} M", *numbers[name].row(), painted.shown("%")])
        works.append(Check(f"all three attributes right, by the {name} prior", painted, CAPABLE))
        shown.append(pictures[:10])
    apart = frechet_difference(reference, *features, settings.repeats)
    floor = frechet_over_seeds(reference, _floor(context, settings), settings.repeats)
    rows.append(["real against real", "", "", "", floor.shown(), "", ""])
    columns = ["prior", "size", *COLUMNS, f"attributes of {settings.decoded} pictures"]
    return Result(
        checks=works,
        tables=[Table(f"{settings.captions} held-out captions a seed, {settings.seeds} seeds", columns, rows)],
        figures=[Figure("priors", "The same captions through both priors.", labelled_grid(shown, list(priors)))],
        paper=[_verdict(numbers, apart, works)],
        notes=[
            "Both with their own defaults and the better of two candidates. The paper's priors are of one size (1 B); "
            "these are of the sizes shown, as the stack ships them. Distances between CLIP image embeddings of "
            "samples and of other held-out renders, times 1,000. Seconds a sample on this machine, in batches of "
            f"{CHUNK}."
        ],
    )


COLUMNS = ["cosine to the true z_i", "cosine to z_t", "Fréchet distance x 1,000", "seconds a sample"]
SCALE = 1000.0  # distances of unit vectors are small


@dataclass(frozen=True)
class Sampled:
    """A prior's embeddings (N, D) of held-out captions, their cosines to the true ones and to the texts, and time."""

    vectors: Tensor
    to_image: list[float]
    to_text: list[float]
    seconds: float


@dataclass(frozen=True)
class Scores:
    """A prior's numbers over all seeds."""

    to_image: Measured
    to_text: Measured
    distance: Measured
    seconds: float

    @classmethod
    def of(cls, reference: Reference, made: list[Sampled], repeats: int) -> Scores:
        """Over seeds: means of cosines and of seconds, and the Fréchet distance."""
        features = [scaled(one.vectors) for one in made]
        return cls(
            mean([value for one in made for value in one.to_image]),
            mean([value for one in made for value in one.to_text]),
            frechet_over_seeds(reference, features, repeats),
            sum(one.seconds for one in made) / len(made),
        )

    def row(self) -> list[str]:
        """Cells under COLUMNS."""
        return [self.to_image.shown(), self.to_text.shown(), self.distance.shown(), f"{self.seconds:.2g}"]


def scaled(vectors: Tensor) -> Tensor:
    """Directions, at a length that makes squared distances a thousand times as large."""
    return F.normalize(vectors, dim=-1) * SCALE**0.5


def embeddings_reference(context: Context, count: int) -> Reference:
    """Image embeddings of held-out renders that no caption here is of."""
    return Reference(scaled(context.embed(real_pictures(result_scenes(count, offset=69))).vector))


def sampled(context: Context, sample: Sample, count: int, seed: int) -> Sampled:
    """Embeddings of `count` held-out captions, other ones for each seed."""
    scenes = result_scenes(count, offset=70 + seed)
    text = context.encode(captions_of(scenes))
    true = context.embed(real_pictures(scenes)).vector
    embed, seconds = sample(text, 1_000_000 * (seed + 1))
    cosines = [F.cosine_similarity(embed.vector, other, dim=1).tolist() for other in (true, text.embed)]
    return Sampled(embed.vector, *cosines, seconds)


def _floor(context: Context, settings: Settings) -> list[Tensor]:
    return [
        scaled(context.embed(real_pictures(result_scenes(settings.captions, offset=70 + seed))).vector)
        for seed in range(settings.seeds)
    ]


def _verdict(numbers: dict[str, Scores], apart: Measured, works: list[Check]) -> str:
    """apart: the diffusion prior's distance less the other's, on the same captions. works: whether the decoder paints
    what was asked for by each of them; of a broken one it means nothing that the other is nearer, nor of two that they
    are alike."""
    ours, theirs = numbers["diffusion"], numbers["autoregressive"]
    told = f"Fréchet {ours.distance.value:.3g} diffusion, {theirs.distance.value:.3g} autoregressive"
    told += f", apart by {apart.shown()}"
    paper, provisos = "(10.39 diffusion, 10.63 autoregressive)", "".join(check.proviso for check in works)
    if any(check.verdict == "missed" for check in works):
        return f"Says nothing about Table 2 {paper}{provisos}; {told}."
    if apart.high < 0:
        return f"Agrees with Table 2 {paper}: the diffusion prior is nearer; {told}{provisos}."
    if apart.low > 0:
        return f"Contradicts Table 2 {paper}: here the autoregressive prior is nearer; {told}{provisos}."
    return f"Undecided on Table 2 {paper}: {told}{provisos}."


EXPERIMENT = Experiment(
    "priors",
    "Autoregressive against diffusion prior",
    "§2.2 and Table 2: both work, diffusion is a little better and cheaper",
    Settings(),
    Settings(captions=120, seeds=2, decoded=24, steps=12, repeats=50),
    run,
)
