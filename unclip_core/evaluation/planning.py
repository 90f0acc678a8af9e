"""What a run of the experiments will cost in processor time, part by part, before it is started.

Every experiment is run as it is, on a context that samples nothing: it counts what is asked of it and gives noise back.
What one network call takes is measured on a few; what the experiments themselves take (drawing, judging, resampling) is
what they have just taken. Two things are not known before: a setting that is chosen by its score is taken to be the
first, which is the cheapest, and a refined inversion to need all its iterations.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..stages import Decoder
from ..storybook.shards import make_scenes
from ..types import Embedding, GivenNoise, Inversion, Noise, TextEncoding
from .context import CHUNK, Context
from .experiments import Experiment
from .judge import Judge
from .reader import Reader
from .reproduction import chosen_settings
from .siblings import KINDS, Round, Siblings
from .storybook import captions_of, real_pictures
from .synthesis import Fit, fits

CALLS = {  # what a plan counts
    "decoder": "one picture through the decoder once",
    "prior": "one embedding by the diffusion prior, one step",
    "ar_prior": "one embedding by the autoregressive prior",
    "fit": "one picture fitted",
}
FEW = 4  # pictures of a measurement of the fitter, steps of one of the prior


@dataclass(frozen=True)
class Part:
    """An experiment's estimated processor time in seconds, and how many calls of each of CALLS are in it; none, if its
    result is there already."""

    experiment: Experiment
    seconds: float
    calls: Counter[str]


class Planning(Context):
    """A context that counts instead of sampling. Nothing is trained and nothing is written."""

    def __init__(self, *given, **options) -> None:
        super().__init__(*given, **options)
        self.calls: Counter[str] = Counter()

    @cached_property
    def judge(self) -> Judge:
        """One that was never trained, as fast as the trained one."""
        return Judge().eval().requires_grad_(False)

    @cached_property
    def reader(self) -> Reader:
        """One that was never trained."""
        return Reader().eval().requires_grad_(False)

    def siblings(self, seed: int = 1) -> Siblings:
        """The shipped decoder in the place of each: they are of one size."""
        return Siblings(dict.fromkeys(KINDS, self.decoder), (Round(1, 0.0),))

    def sample_prior(
        self, text: TextEncoding, seed: int = 0, *, autoregressive: bool = False, **options
    ) -> tuple[Embedding, float]:
        """Noise of the length of an embedding."""
        draws = len(text) * options.get("candidates", 2)
        if autoregressive:
            self.calls["ar_prior"] += draws
        else:
            self.calls["prior"] += draws * (options.get("steps") or self.prior.config.sampling.steps)
        drawn = torch.randn(len(text), text.embed.shape[1], generator=torch.Generator().manual_seed(seed))
        return Embedding(drawn / drawn.norm(dim=1, keepdim=True), text.clip_id), 1.0

    def invert(self, pictures: Tensor, embed: Embedding, what: str = "invert", **options) -> GivenNoise:
        """Noise, of an inversion of these steps."""
        options.setdefault("guidance_scale", 1.0)
        steps, calls = self._steps(options)
        self.calls["decoder"] += len(pictures) * calls * (1 + steps * (1 + options.get("refine", 0)))
        x_T = torch.randn(pictures.movedim(-1, 1).shape)
        made = (tuple(range(steps)), self.decoder.config.decoder_id, options["guidance_scale"], "", "", 1e-3)
        return GivenNoise(x_T, Inversion(*made))

    def decode(
        self,
        embed: Embedding | None,
        text: TextEncoding | None = None,
        *,
        noise: Noise | None = None,
        seed: int = 0,
        decoder: Decoder | None = None,
        what: str = "decode",
        **options,
    ) -> Tensor:
        """Noise of a picture's size."""
        batch = max((len(given) for given in (embed, text, noise) if given is not None), default=1)
        if isinstance(noise, GivenNoise) and noise.inversion is not None:
            options = {"guidance_scale": noise.inversion.guidance_scale, **options}
            options["steps"] = len(noise.inversion.timesteps)
        steps, calls = self._steps(options)
        self.calls["decoder"] += batch * steps * calls
        side = self.decoder.config.unet.image_size
        return torch.rand(batch, side, side, 3, generator=torch.Generator().manual_seed(seed))

    def fits(self, pictures: Tensor) -> list[Fit]:
        """Nothing found in any."""
        self.calls["fit"] += len(pictures)
        return [Fit((), "none", 1.0)] * len(pictures)

    def _steps(self, options: dict) -> tuple[int, int]:
        """Steps, and network calls a step."""
        own = self.decoder.config.sampling
        guidance = options.get("guidance_scale")
        guided = (own.guidance_scale if guidance is None else guidance) != 1.0
        return options.get("steps") or own.steps, 2 if guided else 1

    def measured(self) -> dict[str, float]:
        """Processor seconds of each of CALLS."""
        scenes = make_scenes(CHUNK, 1, "train", "one")
        pictures = real_pictures(scenes)
        text, embed = self.encode(captions_of(scenes)), self.embed(pictures)
        found = {}

        def took(steps: int) -> float:
            began = time.process_time()
            self.decoder.sample(embed, text, steps=steps, guidance_scale=1.0, sampler="ddim")
            return time.process_time() - began

        took(1)  # reads the weights
        found["decoder"] = max(took(3) - took(1), 1e-4) / (2 * CHUNK)
        began = time.process_time()
        fits(pictures[:FEW])
        found["fit"] = (time.process_time() - began) / FEW
        for name, prior in (("prior", self.prior), ("ar_prior", self.ar_prior)):
            if prior is None:
                continue
            options = {"steps": FEW} if name == "prior" else {}
            prior.sample(text.take(slice(0, 1)), candidates=1, **options)
            began = time.process_time()
            prior.sample(text, candidates=1, **options)
            found[name] = (time.process_time() - began) / len(text) / options.get("steps", 1)
        return found


def plan(
    context: Planning, experiments: Iterable[Experiment], quick: bool, full: Container[str] = ()
) -> Iterator[Part]:
    """The estimated cost of each experiment, one after another. Of what is half done it knows nothing."""
    rates = context.measured()
    for experiment in experiments:
        settings, key, _ = chosen_settings(context, experiment, quick, full)
        context.calls, began = Counter(), time.process_time()
        if context.store.load(experiment.name, key) is None:
            experiment.run(context, settings)
        seconds = time.process_time() - began + sum(rates[name] * count for name, count in context.calls.items())
        yield Part(experiment, seconds, context.calls)


def training(context: Planning) -> dict[str, str]:
    """What is trained by the way, and how long that may take."""
    budget, spent = context.budget, context.trainings
    found = {}
    for name, recipe in (("judge", budget.judge), ("reader", budget.reader)):
        there = (context.places[name] / f"{name}.safetensors").exists()
        found[name] = "trained already" if there else f"{recipe.steps} steps of {recipe.batch} small pictures, minutes"
    minutes = budget.siblings.minutes
    for seed in range(1, budget.siblings.seeds + 1):
        for kind in KINDS:
            used = spent.get(f"decoder told of {kind}-{seed}", 0.0) / 60
            found[f"decoder told of {kind}, seed {seed}"] = f"at most {minutes:.0f} minutes, {used:.1f} of them used"
    return found
