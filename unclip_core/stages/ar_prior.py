"""The autoregressive prior stage: captions -> image embeddings, one quantised component after another (§2.2)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import MAX_CANDIDATES, check_count, is_number
from ..config import ARPriorConfig
from ..diffusion.denoiser import check_guidance_scale, needs_pair
from ..diffusion.noise import ItemNoise
from ..diffusion.samplers import Sampling, StepState
from ..models.ar_prior import ARCache, ARPriorNetwork
from ..runtime.estimates import ar_prior_row_bytes, bytes_to_ask_for, rows_that_fit, split_rows
from ..runtime.placement import Placed
from ..types import Embedding, TextEncoding
from .run import NanWatch, finish, run_chunks, until_it_fits
from .text import TextRows, TextStage, choose_closest, rows_of_items, stack_texts, with_nulls

EmbeddingSteps = Generator[StepState, None, Embedding]


@dataclass(frozen=True)
class _Plan:
    """One run's settings, checked."""

    guidance_scale: float
    temperature: float
    floor: float  # share of the distribution of z_i . z_t that is left out, 0..1
    texts: int
    count: int
    noises: list[ItemNoise]  # one for each candidate

    @property
    def batch(self) -> int:
        """Items."""
        return self.texts * self.count


@dataclass(frozen=True, eq=False)
class ARPrior(TextStage):
    """The autoregressive prior: captions -> image embeddings (§2.2)."""

    config: ARPriorConfig
    network: Placed[ARPriorNetwork]

    WHO = "Autoregressive Prior"

    def null_text(self) -> None:
        """None: the unconditional text is learned, the network holds it."""

    def sample(self, text: TextEncoding, **options) -> Embedding:
        """`sample_steps`, run to its end."""
        return finish(self.sample_steps(text, **options))

    def sample_steps(
        self,
        text: TextEncoding,
        *,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        dot_percentile: float | None = None,
        candidates: int = 1,
        count: int = 1,
        seed: int = 0,
        negative_text: TextEncoding | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ) -> EmbeddingSteps:
        """`count` embeddings per caption, text-row-major: item = row * count + k.

        temperature: 0 (always the likeliest code) to 10. dot_percentile: 0..99.9, z_i . z_t is drawn above this
        percentile of the distribution that the model gives it for the caption; 50 is the upper half, as in the paper.
        candidates, negative_text, warn, scale and order as of `Prior.sample`. A step of the generator is one code; its
        x_t and x0 are the embedding so far, (items, D). Raises ValueError for another CLIP's text or a value out of
        range.
        """
        own = self.config.sampling
        scale = own.guidance_scale if guidance_scale is None else guidance_scale
        scale = check_guidance_scale(self.WHO, scale)
        temperature = self._number("temperature", own.temperature if temperature is None else temperature, 0.0, 10.0)
        percentile = own.dot_percentile if dot_percentile is None else dot_percentile
        percentile = self._number("dot_percentile", percentile, 0.0, 99.9)
        check_count(self.WHO, "candidates", candidates, MAX_CANDIDATES)
        check_count(self.WHO, "count", count)
        texts = self.check_prompt(text, negative_text)
        self.warn_of_negative(needs_pair(scale), negative_text, warn)
        noises = [ItemNoise(seed, texts * count, "ar_prior", candidate) for candidate in range(candidates)]
        plan = _Plan(scale, temperature, percentile / 100.0, texts, count, noises)
        return until_it_fits([self.network], lambda: self._run(text, negative_text, plan), warn)

    def _number(self, name: str, value: float, low: float, high: float) -> float:
        if not is_number(value) or not low <= value <= high:
            raise ValueError(f"{self.WHO}: {name} must be a number from {low:g} to {high:g}, got {value!r}")
        return float(value)

    @torch.no_grad()
    def _run(self, text: TextEncoding, negative: TextEncoding | None, plan: _Plan) -> EmbeddingSteps:
        pair, candidates = 2 if needs_pair(plan.guidance_scale) else 1, len(plan.noises)
        row_bytes = ar_prior_row_bytes(self.config, self.network.dtype.itemsize) * pair * candidates
        network = self.network.on_device(need=bytes_to_ask_for(plan.batch, row_bytes))
        chunks = split_rows(plan.batch, rows_that_fit(self.network.device, row_bytes))

        def sample(items: slice) -> Sampling:
            return self._codes(network, text, negative, plan, items)

        found = yield from run_chunks(self.WHO, chunks, sample, self.network.dtype, self.network.device)
        vectors = torch.cat(found).unflatten(0, (plan.batch, candidates))
        return choose_closest(vectors, text, self.config.clip_id)

    def _codes(
        self,
        network: ARPriorNetwork,
        text: TextEncoding,
        negative: TextEncoding | None,
        plan: _Plan,
        items: slice,
    ) -> Sampling:
        """Sample some items' (and all their candidates') codes. Returns their embeddings (rows, D) float32."""
        device, quantiser, total = self.network.device, network.quantiser, self.config.components + 1
        uniform = self._uniforms(plan, items).to(device)
        dot_logits, cache = self._prefix(network, text, negative, plan, items)
        rows, scale = len(uniform), plan.guidance_scale
        watch = NanWatch(self.WHO, self.network.dtype)
        # Guidance is for the caption; how well the picture fits it is asked of the conditional model alone.
        logits, floor = dot_logits[:rows], plan.floor
        z = quantiser.mean.expand(rows, -1)
        for index in range(total):
            bucket = draw_bucket(logits, uniform[:, index], plan.temperature, floor)
            if index > 0:
                component = slice(index - 1, index)
                z = z + quantiser.values(bucket[:, None], component) * quantiser.basis[component]
            state = StepState(index, total, index, z, z)
            watch.check(state, logits)  # a NaN there gives some bucket, so the embedding does not show it
            yield state
            if index + 1 < total:
                both = torch.cat([bucket, bucket]) if needs_pair(scale) else bucket
                logits, cache = network.step(both, cache)
                floor = 0.0
                if needs_pair(scale):
                    conditional, unconditional = logits.chunk(2)
                    logits = torch.lerp(unconditional, conditional, scale)
        watch.finish()
        return z.float()

    def _uniforms(self, plan: _Plan, items: slice) -> Tensor:
        """(items x candidates, K + 1) in 0..1, item-major: the seeds' normal draws through their own distribution."""
        draws = [noise.rows(items).draw((self.config.components + 1,)) for noise in plan.noises]
        return torch.special.ndtr(torch.stack(draws, dim=1).flatten(0, 1))

    def _prefix(
        self,
        network: ARPriorNetwork,
        text: TextEncoding,
        negative: TextEncoding | None,
        plan: _Plan,
        items: slice,
    ) -> tuple[Tensor, ARCache]:
        """(logits of z_i . z_t, cache) for each (item, candidate), the unconditional ones after the conditional."""
        device = self.network.device
        rows, places = rows_of_items(items, plan.count, len(plan.noises), device)
        prompt = TextRows.of(text, device)
        stacked, drop = prompt.take(rows), None
        if needs_pair(plan.guidance_scale):
            if negative is None:
                nulls = prompt.take(rows[:1])  # its words are dropped
                drop = torch.arange(len(rows) + 1, device=device) >= len(rows)
            else:
                nulls = TextRows.of(negative, device).take(rows if len(negative) > 1 else rows[:1])
            stacked = stack_texts(stacked, nulls)
            places = with_nulls(places, len(rows), len(nulls.embed))
        logits, cache = network.prefix(stacked.tokens, stacked.embed, stacked.mask, ids=stacked.ids, drop=drop)
        return logits[places], cache.take(places)


def draw_bucket(logits: Tensor, uniform: Tensor, temperature: float, floor: float = 0.0) -> Tensor:
    """Buckets (B,) of logits (B, buckets) at the quantiles `uniform` (B,), 0..1, of their distribution.

    temperature 0: the likeliest. floor: share of the distribution, from the lowest bucket up, that is left out.
    """
    reached = torch.softmax(logits / temperature if temperature > 0 else logits, dim=-1).cumsum(-1)
    reached = reached / reached[:, -1:]
    if temperature == 0:
        return logits.masked_fill(reached <= floor, -math.inf).argmax(-1)
    quantile = floor + (1.0 - floor) * uniform
    return torch.searchsorted(reached, quantile[:, None], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
