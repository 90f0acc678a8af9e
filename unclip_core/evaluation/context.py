"""What every experiment is given: the stack, the judges, the run folder's memory, and short ways to sample."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.catalog import ANALYTIC, PCA, StackEntry, find_table
from ..clip.model import Clip
from ..stack import Stack
from ..stages import ARPrior, Decoder, Prior, finish
from ..training.data import StorybookData, Tick
from ..training.recipes import Recipe
from ..types import Embedding, GivenNoise, Noise, TextEncoding
from .judge import JUDGE_RECIPE, Judge, trained_judge
from .reader import READER_RECIPE, Reader, trained_reader
from .results import Store, digest
from .siblings import SIBLING_RECIPE, trained_sibling

CHUNK = 32  # pictures at a time: more gain nothing on a CPU, and progress is seen


@dataclass(frozen=True)
class Budget:
    """How long the models that only experiments need are trained."""

    judge: Recipe = JUDGE_RECIPE
    reader: Recipe = READER_RECIPE
    sibling: Recipe = SIBLING_RECIPE


FULL = Budget()
QUICK = Budget(
    # Three times the learning rate: few steps are to go far.
    judge=replace(JUDGE_RECIPE, steps=700, batch=64, lr=3e-3, warmup=50, pictures=8_000),
    reader=replace(READER_RECIPE, steps=500, batch=64, lr=3e-3, warmup=50, pictures=8_000),
    sibling=replace(SIBLING_RECIPE, steps=450, ema=0.99, pictures=8_000),
)


class Context:
    """The stack under test and its examiners, each made when first asked for."""

    def __init__(
        self,
        entry: StackEntry,
        stack: Stack,
        run: Path,
        cache: Path,
        budget: Budget = FULL,
        tick: Tick = lambda what, done, total: None,
    ) -> None:
        self.entry, self.stack, self.run, self.cache = entry, stack, run, cache
        self.budget, self.tick, self.store = budget, tick, Store(run)

    @property
    def clip(self) -> Clip:
        """The stack's CLIP."""
        return self.stack.clip

    @property
    def prior(self) -> Prior:
        """The stack's diffusion prior."""
        return self.stack.prior

    @property
    def decoder(self) -> Decoder:
        """The stack's decoder."""
        return self.stack.decoder

    @property
    def ar_prior(self) -> ARPrior | None:
        """The stack's autoregressive prior, if it has one."""
        return self.stack.ar_prior if "ar_prior" in self.entry.stages else None

    @cached_property
    def judge(self) -> Judge:
        """The judge, trained on renders alone; by its full recipe it is the one that `unclip evaluate` uses."""
        recipe = self.budget.judge
        return trained_judge(
            self.cache / "judge" if recipe == JUDGE_RECIPE else self._folder("judge", recipe),
            self.data(recipe),
            lambda p: self.tick("train judge", p.step, p.steps),
            recipe,
        )

    @cached_property
    def reader(self) -> Reader:
        """The reader, trained on renders alone."""
        return trained_reader(
            self._folder("reader", self.budget.reader),
            lambda p: self.tick("train reader", p.step, p.steps),
            self.budget.reader,
        )

    def data(self, recipe: Recipe) -> StorybookData:
        """The training pictures of a recipe."""
        self.tick("draw training pictures", 0, 1)
        return StorybookData(self.cache / "storybook", recipe.pictures, 1, workers=torch.get_num_threads())

    def sibling(self, kind: str) -> Decoder:
        """The small decoder that reads "image" or "text" embeddings."""
        recipe = self.budget.sibling
        return trained_sibling(
            kind,
            self.decoder.config,
            self.clip,
            self.data(recipe),
            self.cache,
            self._folder(f"{kind}-sibling", recipe, self.weights),
            recipe,
            on_progress=lambda p: self.tick(f"train {kind}-embedding decoder", p.step, p.steps),
        )

    @cached_property
    def weights(self) -> str:
        """A short hash of every file of the stack, fitted tables included: other weights, other results."""
        found = hashlib.sha256()
        tables = [find_table(self.entry, kind) for kind in (PCA, ANALYTIC)]
        files = [path for stage in self.entry.stages.values() for path in stage.files]
        for path in sorted({*files, *(table for table in tables if table)}):
            found.update(path.name.encode())
            with path.open("rb") as file:
                while part := file.read(1 << 20):
                    found.update(part)
        return found.hexdigest()[:16]

    def key(self, *parts: object) -> str:
        """The key of something that depends on these settings, the weights and the examiners."""
        return digest(self.weights, asdict(self.budget), *parts)

    def _folder(self, name: str, recipe: Recipe, *parts: object) -> Path:
        return self.run / "models" / f"{name}-{digest(asdict(recipe), *parts)}"

    def embed(self, pictures: Tensor) -> Embedding:
        """CLIP embeddings of IMAGE (B, H, W, 3)."""
        parts = [self.clip.encode_image(part) for part in pictures.split(CHUNK)]
        return Embedding(torch.cat([part.vector for part in parts]), parts[0].clip_id)

    def imagine(self, captions: list[str], seed: int = 0, **options: Any) -> tuple[Embedding, TextEncoding]:
        """What the prior makes of captions, with its defaults unless `options` says otherwise; and their encoding."""
        text = self.clip.encode_text(captions)
        return self.prior.sample(text, seed=seed, **options), text

    def invert(self, pictures: Tensor, embed: Embedding, what: str = "invert", **options: Any) -> GivenNoise:
        """x_T of IMAGE (B, H, W, 3) under their embeddings, without a caption."""
        found = []
        for start in range(0, len(pictures), CHUNK):
            rows = slice(start, start + CHUNK)
            part = replace(embed, vector=embed.vector[rows])
            steps = self.decoder.invert_steps(pictures[rows], part, **options)
            found.append(finish(steps, self._watch(what, start, len(pictures))))
        worst = max(noise.inversion.residual for noise in found)
        inversion = replace(found[0].inversion, residual=worst)
        return GivenNoise(torch.cat([noise.x_T for noise in found]), inversion)

    def decode(
        self,
        embed: Embedding | None,
        text: TextEncoding | None = None,
        *,
        noise: Noise | None = None,
        seed: int = 0,
        decoder: Decoder | None = None,
        what: str = "decode",
        **options: Any,
    ) -> Tensor:
        """IMAGE (B, S, S, 3): item i with seed + i. embed, text and noise have one size; `options` go to `sample`."""
        sizes = [len(given) for given in (embed, text, noise) if given is not None]
        batch, found = max(sizes, default=1), []
        for start in range(0, batch, CHUNK):
            rows = slice(start, start + CHUNK)
            steps = (decoder or self.decoder).sample_steps(
                embed and replace(embed, vector=embed.vector[rows]),
                text and text.take(rows),
                noise=noise and (noise.take(rows) if len(noise) > 1 else noise),
                seed=seed + start,
                warn=lambda message: None,  # that guidance is not the inversion's is what an experiment varies
                **options,
            )
            found.append(finish(steps, self._watch(what, start, batch)))
        return torch.cat(found)

    def _watch(self, what: str, start: int, batch: int) -> Callable[[Any], None]:
        chunk = min(CHUNK, batch - start)

        def on_step(state: Any) -> None:
            self.tick(what, start + chunk * (state.index + 1) // state.total, batch)

        return on_step
