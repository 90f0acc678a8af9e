"""Analytic-DPM against the plain posterior variance in the diffusion prior (App. C; Bao et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from ..context import Context
from ..plots import Point, line_plot
from ..results import Figure, Result, Table
from ..statistics import Measured, frechet_difference
from .common import Experiment
from .priors import COLUMNS, Scores, embeddings_reference, sampled, scaled

SAMPLERS = {"plain": "ddpm", "analytic": "analytic_ddpm"}


@dataclass(frozen=True)
class Settings:
    """captions a seed, for each sampler and number of steps."""

    captions: int = 1000
    seeds: int = 3
    steps: tuple[int, ...] = (8, 16, 32, 64)
    repeats: int = 100


def run(context: Context, settings: Settings) -> Result:
    """Both variances at several numbers of steps."""
    try:
        context.prior.noise_powers()
    except ValueError as error:
        return Result(notes=[f"Not run: {error}."])
    reference = embeddings_reference(context, settings.captions)
    rows, numbers, apart = [], {}, {}
    for steps in settings.steps:
        features = []
        for name, sampler in SAMPLERS.items():

            def sample(text, seed, steps=steps, sampler=sampler):
                return context.sample_prior(text, seed, steps=steps, sampler=sampler, candidates=1)

            made = [sampled(context, sample, settings.captions, seed) for seed in range(settings.seeds)]
            numbers[name, steps] = Scores.of(reference, made, settings.repeats)
            features.append([scaled(one.vectors) for one in made])
            rows.append([str(steps), name, *numbers[name, steps].row()])
        apart[steps] = frechet_difference(reference, *features, settings.repeats)
    lines = {
        name: [
            Point(steps, score.distance.value, score.distance.low, score.distance.high)
            for steps, score in ((steps, numbers[name, steps]) for steps in settings.steps)
        ]
        for name in SAMPLERS
    }
    plot = line_plot(lines, "steps", "distance x 1,000", log_x=True)
    return Result(
        tables=[Table(f"{settings.captions} held-out captions a seed", ["steps", "variance", *COLUMNS], rows)],
        figures=[Figure("analytic", "Distance by steps.", plot)],
        paper=[_verdict(apart)],
        notes=["One candidate each, so that the choice of the better one does not hide the sampler."],
    )


def _verdict(apart: dict[int, Measured]) -> str:
    """apart: by steps, the plain variance's distance less the analytic one's, on the same captions."""
    better = [steps for steps, each in apart.items() if each.low > 0]
    worse = [steps for steps, each in apart.items() if each.high < 0]
    told = "plain less analytic: " + "; ".join(f"{steps} steps {each.shown()}" for steps, each in apart.items())
    if better and not worse:
        return f"Agrees with Bao et al.: the analytic variance is nearer at {_listed(better)} steps ({told})."
    if worse and not better:
        return f"Contradicts Bao et al. here: the plain variance is nearer at {_listed(worse)} steps ({told})."
    if better:
        return (
            f"Undecided: the analytic variance is nearer at {_listed(better)} steps, the plain one at {_listed(worse)} "
            f"({told})."
        )
    return f"Undecided: neither variance is nearer at any number of steps ({told})."


def _listed(steps: list[int]) -> str:
    return " and ".join(", ".join(map(str, part)) for part in (steps[:-1], steps[-1:]) if part)


EXPERIMENT = Experiment(
    "analytic",
    "Analytic variance",
    "App. C: the diffusion prior samples with Analytic-DPM in 64 steps",
    Settings(),
    Settings(captions=100, seeds=2, repeats=30),
    run,
)
