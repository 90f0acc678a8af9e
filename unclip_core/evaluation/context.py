"""What every experiment is given: the stack, the judges, the run folder's memory, and short ways to sample.

Whatever is sampled is kept by chunks, so that an experiment goes on after a kill, and takes up what it has when its
counts grow.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.catalog import ANALYTIC, PCA, StackEntry, find_table
from ..checkpoints.loading import load_network
from ..clip.model import Clip
from ..config import from_plain
from ..stack import Stack
from ..stages import ARPrior, Decoder, Prior, finish
from ..storybook.shards import make_scenes
from ..training.data import StorybookData, Tick
from ..training.embeddings import image_embeddings
from ..training.loop import Progress
from ..training.recipes import Recipe
from ..types import Embedding, GivenNoise, Inversion, Noise, TextEncoding
from . import sources, synthesis
from .judge import HEADS, JUDGE_RECIPE, Judge, trained_judge, verdicts
from .reader import READER_RECIPE, Reader, trained_reader
from .results import Store, digest, packed, read, unpacked, written
from .siblings import MEASURED, SIBLING_RECIPE, UPBRINGING, Nursery, Siblings, Spent, Upbringing
from .storybook import captions_of
from .synthesis import Fit, fits

SIBLING_SCENES = 3200  # seed of the training scenes whose captions decide how long small decoders are trained
CHUNK = 32  # pictures at a time: more gain nothing on a CPU, and progress is seen


@dataclass(frozen=True)
class Budget:
    """How long the models that only experiments need are trained."""

    judge: Recipe = JUDGE_RECIPE
    reader: Recipe = READER_RECIPE
    siblings: Upbringing = UPBRINGING


FULL = Budget()
QUICK = Budget(
    # Three times the learning rate: few steps are to go far.
    judge=replace(JUDGE_RECIPE, steps=700, batch=64, lr=3e-3, warmup=50, pictures=8_000),
    reader=replace(READER_RECIPE, steps=500, batch=64, lr=3e-3, warmup=50, pictures=8_000),
    siblings=Upbringing(
        replace(SIBLING_RECIPE, steps=100, ema=0.98, pictures=8_000), round=50, minutes=2.0, captions=32, steps=10
    ),
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
        self.budget, self.tick, self.store = budget, tick, Store(run, sources.sampling())
        self.trained = 0.0  # seconds of processor time of this context's own trainings
        self._siblings: dict[int, Siblings] = {}

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
        recipe, folder = self.budget.judge, self.places["judge"]
        on_progress = self._training("judge", folder)
        return trained_judge(folder, self.data(recipe), on_progress, recipe)

    @cached_property
    def reader(self) -> Reader:
        """The reader, trained on renders alone."""
        folder = self.places["reader"]
        return trained_reader(folder, self._training("reader", folder), self.budget.reader)

    def siblings(self, seed: int = 1) -> Siblings:
        """The decoders alike in all but what they are told, of a training seed: as many steps for every seed."""
        if seed not in self._siblings:
            steps = None if seed == 1 else self.siblings().steps
            _ = self.judge  # trained before it is asked: its time is its own
            earlier = self.store.earlier
            self._siblings[seed] = self._nursery.raised(seed, self._painted_right, steps)
            self.store.earlier = earlier  # what is measured is told of beside the training
        return self._siblings[seed]

    @cached_property
    def _nursery(self) -> Nursery:
        plan = self.budget.siblings

        def trunk() -> dict[str, Tensor]:
            return load_network(self.entry.stages["decoder"], torch.float32).state_dict()

        return Nursery(
            self.decoder.config,
            trunk,
            self.clip,
            lambda: self.data(plan.recipe),
            lambda data: image_embeddings(self.clip, data, self.cache / "embeddings", progress=self.tick),
            self.places["small decoders"],
            plan,
            self.decoder.network.dtype,
            lambda kind, progress: self.tick(f"train decoder told of {kind}", progress.step, progress.steps),
            self._note_training,
        )

    def _note_training(self, seconds: float) -> None:
        self.trained += seconds

    def _painted_right(self, decoder: Decoder) -> float:
        """Share of training scenes' captions that a decoder on captions alone paints right in all three attributes."""
        plan = self.budget.siblings
        scenes = make_scenes(plan.captions, SIBLING_SCENES, "train", "one")
        made = self.decode(
            None, self.encode(captions_of(scenes)), decoder=decoder, seed=SIBLING_SCENES, steps=plan.steps,
            guidance_scale=plan.guidance, what="measure the decoder on captions",
        )  # fmt: skip
        seen = [said for part in made.split(256) for said in verdicts(self.judge, part)]
        wanted = [dict(zip(HEADS, scene.triples()[0], strict=True)) for scene in scenes]
        return sum(said == truth for said, truth in zip(seen, wanted, strict=True)) / len(scenes)

    @property
    def trainings(self) -> dict[str, float]:
        """Seconds of processor time that training took so far, by what was trained."""
        found = {name: Spent(self.places[name]).seconds for name in ("judge", "reader")}
        siblings = self.places["small decoders"]
        for place in sorted(siblings.iterdir()) if siblings.exists() else ():
            found[f"decoder told of {place.name}"] = Spent(place).seconds
            found[f"decoder told of {place.name}, measuring it"] = Spent(place / MEASURED).seconds
        return {name: seconds for name, seconds in found.items() if seconds}

    @cached_property
    def places(self) -> dict[str, Path]:
        """The folders of what is trained."""
        judge, plan = self.budget.judge, self.budget.siblings
        own = self.run / "models"
        return {
            "judge": self.cache / "judge" if judge == JUDGE_RECIPE else own / f"judge-{digest(asdict(judge))}",
            "reader": own / f"reader-{digest(asdict(self.budget.reader))}",
            "small decoders": own / f"siblings-{digest(plan.kept, self.weights_of('clip', 'decoder'))}",
        }

    def _training(self, name: str, folder: Path) -> Callable[[Progress], None]:
        """What is to be called with the progress of a training in a folder."""
        spent = Spent(folder, self._note_training)

        def on_progress(progress: Progress) -> None:
            spent.note()
            self.tick(f"train {name}", progress.step, progress.steps)

        return on_progress

    def data(self, recipe: Recipe) -> StorybookData:
        """The training pictures of a recipe."""
        self.tick("draw training pictures", 0, 1)
        return StorybookData(self.cache / "storybook", recipe.pictures, 1, workers=torch.get_num_threads())

    @cached_property
    def weights(self) -> str:
        """A short hash of every file of the stack, fitted tables included: other weights, other results."""
        return self.weights_of(*self.entry.stages, tables=(PCA, ANALYTIC))

    @cache  # noqa: B019 (a context lives as long as the command)
    def weights_of(self, *stages: str, tables: tuple[str, ...] = ()) -> str:
        """A short hash of the files of these stages and fitted tables: other weights, other samples."""
        found = hashlib.sha256()
        fitted = [table for kind in tables if (table := find_table(self.entry, kind))]
        files = [path for stage in stages for path in self.entry.stages[stage].files]
        for path in sorted({*files, *fitted}):
            found.update(path.name.encode())
            with path.open("rb") as file:
                while part := file.read(1 << 20):
                    found.update(part)
        return found.hexdigest()[:16]

    def key(self, *parts: object, siblings: bool = False) -> str:
        """The key of something that depends on these settings, the weights and the examiners, and where it asks for
        `siblings`, on those."""
        examiners = {"judge": asdict(self.budget.judge), "reader": asdict(self.budget.reader)}
        return digest(self.weights, examiners, asdict(self.budget.siblings) if siblings else None, *parts)

    def embed(self, pictures: Tensor) -> Embedding:
        """CLIP embeddings of IMAGE (B, H, W, 3)."""
        parts = [self.clip.encode_image(part) for part in pictures.split(CHUNK)]
        return Embedding(torch.cat([part.vector for part in parts]), parts[0].clip_id)

    def encode(self, captions: list[str]) -> TextEncoding:
        """CLIP's encoding of captions, in the chunks that they are painted in: a caption's does not depend on how many
        come after it."""
        parts = [self.clip.encode_text(captions[start : start + CHUNK]) for start in range(0, len(captions), CHUNK)]
        joined = {
            name: torch.cat([getattr(part, name) for part in parts]) for name in ("tokens", "embed", "mask", "ids")
        }
        return replace(parts[0], captions=tuple(captions), **joined)

    def imagine(self, captions: list[str], seed: int = 0, **options: Any) -> tuple[Embedding, TextEncoding]:
        """What the prior makes of captions, with its defaults unless `options` says otherwise; and their encoding.
        Caption i with seed + i."""
        text = self.encode(captions)
        return self.sample_prior(text, seed, **options)[0], text

    def sample_prior(
        self, text: TextEncoding, seed: int = 0, *, autoregressive: bool = False, **options: Any
    ) -> tuple[Embedding, float]:
        """Embeddings of texts by one of the priors, item i with seed + i, and the seconds on the clock that each
        took."""
        prior, found, seconds = self.ar_prior if autoregressive else self.prior, [], 0.0
        weights = self.weights_of("clip", "ar_prior" if autoregressive else "prior", tables=(ANALYTIC,))
        for start in range(0, len(text), CHUNK):
            part = text.take(slice(start, start + CHUNK))

            def make(part: TextEncoding = part, start: int = start) -> dict[str, Tensor]:
                prior.network.on_device()  # reads the weights, which is no part of the time
                began = time.perf_counter()
                made = prior.sample(part, seed=seed + start, **options).vector
                return {"z": made, "seconds": torch.tensor(time.perf_counter() - began)}

            dtype = str(prior.network.dtype)
            key = digest(weights, prior.config, dtype, part.captions, seed + start, options)
            kept = self.store.tensors("imagined", key, make)
            found.append(kept["z"])
            seconds += float(kept["seconds"])
            self.tick("prior", start + len(part), len(text))
        return Embedding(torch.cat(found), text.clip_id), seconds / len(text)

    def fits(self, pictures: Tensor) -> list[Fit]:
        """What the fitter finds in IMAGE (B, 64, 64, 3)."""
        found: list[Fit] = []
        fitter = sources.judging(synthesis)  # another fitter or renderer, other fits
        for start, part in enumerate(pictures.split(CHUNK)):

            def make(part: Tensor = part) -> dict[str, Tensor]:
                return {"fits": written([asdict(fit) for fit in fits(part)])}

            kept = self.store.tensors("fitted", digest(part, fitter), make, sampled=False)["fits"]
            found += [from_plain(Fit, fit, "fit") for fit in read(kept)]
            self.tick("fit drawings", min((start + 1) * CHUNK, len(pictures)), len(pictures))
        return found

    def fitted(self, pictures: Tensor) -> list[dict[str, str]]:
        """What the fitter says of IMAGE (B, 64, 64, 3), as the judge says it."""
        return [fit.said() for fit in self.fits(pictures)]

    def invert(self, pictures: Tensor, embed: Embedding, what: str = "invert", **options: Any) -> GivenNoise:
        """x_T of IMAGE (B, H, W, 3) under their embeddings, without a caption."""
        found = []
        for start in range(0, len(pictures), CHUNK):
            rows = slice(start, start + CHUNK)
            shown, part = pictures[rows], embed.take(rows)

            def make(shown: Tensor = shown, part: Embedding = part, start: int = start) -> dict[str, Tensor]:
                steps = self.decoder.invert_steps(shown, part, **options)
                noise = finish(steps, self._watch(what, start, len(pictures)))
                return {"x_T": noise.x_T, "inversion": written(asdict(noise.inversion))}

            kept = self.store.tensors("inverted", self._key(self.decoder, shown, part, options), make)
            said = read(kept["inversion"])
            found.append(
                GivenNoise(kept["x_T"], Inversion(**{**said, "timesteps": tuple(said["timesteps"]), "loras": ()}))
            )
            self.tick(what, start + len(shown), len(pictures))
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
        """IMAGE (B, S, S, 3): item i with seed + i. embed, text and noise have one size; `options` go to `sample`.
        Raises ValueError as `_key`."""
        sizes = [len(given) for given in (embed, text, noise) if given is not None]
        batch, found, decoder = max(sizes, default=1), [], decoder or self.decoder
        for start in range(0, batch, CHUNK):
            rows = slice(start, start + CHUNK)
            given = {
                "embed": embed and embed.take(rows),
                "text": text and text.take(rows),
                "noise": noise and (noise.take(rows) if len(noise) > 1 else noise),
                "seed": seed + start,
                **options,
            }

            def make(given: dict[str, Any] = given, start: int = start) -> dict[str, Tensor]:
                steps = decoder.sample_steps(
                    **given,
                    warn=lambda message: None,  # that guidance is not the inversion's is what an experiment varies
                )
                return {"pictures": packed(finish(steps, self._watch(what, start, batch)))}

            # A caption says what its encoding is; that is computed anew each time, and may differ in the last bit.
            named = {**given, "text": text and given["text"].captions}
            kept = self.store.tensors("decoded", self._key(decoder, named), make)
            found.append(unpacked(kept["pictures"]))
            self.tick(what, min(start + CHUNK, batch), batch)
        return torch.cat(found)

    def _key(self, decoder: Decoder, *parts: object) -> str:
        """The key of what a decoder makes of these. Decoders of the run have their training in their id.

        Raises ValueError for a decoder with what has no key: CLIP guidance, a depth hint, LoRAs.
        """
        if decoder.guidance_by_clip or decoder.hint or decoder.loras:
            raise ValueError("experiments keep samples of decoders without CLIP guidance, depth hints and LoRAs alone")
        patches = [patch for patch in (decoder.interval, decoder.cache) if patch]
        weights = self.weights_of("clip", "decoder")
        return digest(weights, decoder.config.decoder_id, str(decoder.network.dtype), *parts, *patches)

    def _watch(self, what: str, start: int, batch: int) -> Callable[[Any], None]:
        chunk = min(CHUNK, batch - start)

        def on_step(state: Any) -> None:
            self.tick(what, start + chunk * (state.index + 1) // state.total, batch)

        return on_step
