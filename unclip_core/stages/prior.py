"""The prior stage: captions -> image embeddings (§2.2)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checks import MAX_CANDIDATES, check_count
from ..config import START_STRENGTH, PriorConfig, SamplingConfig
from ..diffusion.noise import ItemNoise
from ..diffusion.samplers import Sampling, StepState
from ..diffusion.schedule import with_noise_powers
from ..models.lora import AppliedLora, Lora
from ..models.prior import PriorCache, PriorNetwork
from ..runtime.estimates import bytes_to_ask_for, prior_row_bytes, rows_that_fit, split_rows
from ..runtime.placement import Placed
from ..types import Embedding, TextEncoding, expand_rows
from .lora import add_lora, branched
from .run import Settings, finish, resolve_settings, run_chunks, time_table, until_it_fits
from .start import check_strength, steps_from
from .text import TextRows, TextStage, choose_closest, rows_of_items, stack_texts, with_nulls

EmbeddingSteps = Generator[StepState, None, Embedding]

_ONE_PASS = SamplingConfig("ddpm", steps=1, guidance_scale=1.0)


@dataclass(frozen=True, eq=False)
class Prior(TextStage):
    """The diffusion prior: captions -> image embeddings (§2.2).

    noise_powers: reads the fitted table (timesteps,) of the sampler `analytic_ddpm`. loras: what `with_lora` added.
    """

    config: PriorConfig
    network: Placed[PriorNetwork]
    noise_powers: Callable[[], Tensor] | None = None
    loras: tuple[AppliedLora, ...] = ()

    WHO = "Diffusion Prior"

    def with_lora(self, lora: Lora, strength: float = 1.0) -> Prior:
        """This prior with a LoRA more; strength 1 is as it was trained.

        Raises ValueError for branches of another network, and for a strength that is no number.
        """
        return add_lora("prior", self, lora, strength)

    def sample(self, text: TextEncoding, **options) -> Embedding:
        """`sample_steps`, run to its end."""
        return finish(self.sample_steps(text, **options))

    def sample_steps(
        self,
        text: TextEncoding,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        candidates: int = 2,
        count: int = 1,
        sampler: str | None = None,
        seed: int = 0,
        negative_text: TextEncoding | None = None,
        start_embed: Embedding | None = None,
        strength: float | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ) -> EmbeddingSteps:
        """`count` embeddings per caption (1 to MAX_COUNT), text-row-major: item = row * count + k. Yields every step.

        Of `candidates` draws per item (1 to MAX_CANDIDATES) the one with the highest cosine to its text embedding is
        kept. negative_text (1 row, or one per caption) takes the null text's place in guidance. start_embed (likewise):
        sampling starts from it, noised to the level `strength`, in as many steps; strength is above 0 (keep the start)
        to 1 (pure noise, as in the paper; the start has no effect), None is 0.3. An extension: Kandinsky 2.2's
        "embedding to embedding". warn: called for a value without effect; a one-pass prior (ECLIPSE) can use none of
        steps, guidance_scale, sampler, negative_text and start_embed.
        Returns an Embedding on the native scale: of unit norm if its CLIP's embeddings are. Raises ValueError for
        another CLIP's text or start, unequal batches or a value out of range.
        """
        config = self.config
        given = {"sampler": sampler, "steps": steps, "guidance_scale": guidance_scale}
        settings = resolve_settings(self.WHO, config.schedule, config.sampling, **given, analytic=True)
        strength = check_strength(self.WHO, START_STRENGTH if strength is None else strength, "start_embed")
        texts = self.check_prompt(text, negative_text, start_embed)
        if config.one_pass:
            given |= {"negative_text": negative_text, "start_embed": start_embed}
            _warn_of_one_pass(self.WHO, [name for name, value in given.items() if value is not None], warn)
            # The first and only step of its own settings ends at what the network gives.
            settings = resolve_settings(self.WHO, config.schedule, _ONE_PASS)
            texts, negative_text, start_embed = len(text), None, None
        else:
            self.warn_of_negative(settings.pair, negative_text, warn)
            _warn_of_start(self.WHO, start_embed, strength, warn)
        if start_embed is not None:
            settings = steps_from(settings, config.schedule, strength)
        if settings.sampler == "analytic_ddpm":
            settings = self._with_noise_powers(settings)
        check_count(self.WHO, "candidates", candidates, MAX_CANDIDATES)
        check_count(self.WHO, "count", count)
        noises = [ItemNoise(seed, texts * count, "prior", candidate) for candidate in range(candidates)]
        start = None if strength == 1.0 else start_embed
        return until_it_fits(
            [self.network], lambda: self._sample(settings, text, negative_text, start, texts, count, noises), warn
        )

    def _with_noise_powers(self, settings: Settings) -> Settings:
        """The fitted table put into the steps. Raises ValueError with the command that makes one."""
        if self.noise_powers is None:
            raise ValueError(
                f"{self.WHO}: sampler 'analytic_ddpm' needs a fitted table, but {self.config.prior_id} was opened "
                "without its model's folder; take the prior from Load unCLIP, or choose ddpm"
            )
        try:
            return replace(settings, steps=with_noise_powers(settings.steps, self.noise_powers()))
        except ValueError as error:
            raise ValueError(f"{self.WHO}: {error}; or choose the sampler ddpm") from None

    @torch.no_grad()
    def _sample(
        self,
        settings: Settings,
        text: TextEncoding,
        negative: TextEncoding | None,
        start: Embedding | None,
        texts: int,
        count: int,
        noises: list[ItemNoise],
    ) -> EmbeddingSteps:
        placed, candidates = self.network, len(noises)
        if settings.pair and negative is None:
            negative = self.null_text()  # encoded before the network is loaded, in whose place CLIP may have to be
        row_bytes = self._row_bytes(settings, candidates)
        network = branched(placed.on_device(need=bytes_to_ask_for(texts * count, row_bytes)), self.loras)
        prompt = TextRows.of(text, placed.device)
        unconditional = self._unconditional(network, negative) if settings.pair else None
        times = time_table(network.time_features, settings.steps, placed.device)
        # On the diffusion's own scale, which the noise is measured by.
        x_0 = None if start is None else expand_rows(network.scale(start.vector.to(placed.device)), texts)
        first = settings.steps[0]

        def sample(items: slice) -> Sampling:
            cache = _prefix(network, prompt, unconditional, items, count, candidates)
            noise = _Candidates([noise.rows(items) for noise in noises])
            x_t = noise.draw((self.config.clip_dim,)).to(placed.device)
            if x_0 is not None:
                rows = torch.arange(items.start, items.stop, device=placed.device) // count
                x_t = first.alpha * x_0[rows].repeat_interleave(candidates, dim=0) + first.sigma * x_t
            denoise = settings.denoiser(lambda x_t, step: network.step(x_t, None, cache, time=times[step.t]))
            return settings.run_sampler(denoise, x_t, noise)

        chunks = split_rows(texts * count, rows_that_fit(placed.device, row_bytes))
        samples = torch.cat((yield from run_chunks(self.WHO, chunks, sample, placed.weights, placed.device)))
        vectors = network.unscale(samples.to(placed.device)).cpu().unflatten(0, (texts * count, candidates))
        return choose_closest(vectors, text, self.config.clip_id)

    def _unconditional(self, network: PriorNetwork, text: TextEncoding | None) -> TextRows:
        if text is not None:
            return TextRows.of(text, self.network.device)
        return TextRows(*network.null_text(1))

    def _row_bytes(self, settings: Settings, candidates: int) -> int:
        pair = 2 if settings.pair else 1
        return prior_row_bytes(self.config, self.network.dtype.itemsize) * pair * candidates


def _warn_of_start(who: str, start: Embedding | None, strength: float, warn: Callable[[str], None]) -> None:
    """Warn of a start or a strength that has no effect."""
    if start is not None and strength == 1.0:
        warn(f"{who}: at strength 1 it starts from pure noise, so start_embed has no effect; lower the strength")
    if start is None and strength != START_STRENGTH:
        warn(f"{who}: without start_embed strength {strength:g} has no effect; link an embedding to start from")


def _warn_of_one_pass(who: str, given: list[str], warn: Callable[[str], None]) -> None:
    """Warn of values that only a prior which runs in steps can use."""
    if given:
        listed = " and ".join(filter(None, [", ".join(given[:-1]), given[-1]]))
        have = "has" if len(given) == 1 else "have"
        warn(
            f"{who}: this prior makes the embedding in one pass, so {listed} {have} no effect; leave it to the model, "
            "or load a prior that runs in steps"
        )


def _prefix(
    network: PriorNetwork,
    prompt: TextRows,
    unconditional: TextRows | None,
    items: slice,
    count: int,
    candidates: int,
) -> PriorCache:
    """Keys and values for each (item, candidate) of `items`, the unconditional ones behind the conditional.

    Each caption's prefix is computed once, for all its items and candidates.
    """
    rows, places = rows_of_items(items, count, candidates, prompt.embed.device)
    prefixed = prompt.take(rows)
    if unconditional is not None:
        nulls = rows if unconditional.embed.shape[0] > 1 else rows[:1]
        prefixed = stack_texts(prefixed, unconditional.take(nulls))
        places = with_nulls(places, len(rows), len(nulls))
    return network.prefix(prefixed.tokens, prefixed.embed, prefixed.mask).take(places)


class _Candidates:
    """Several candidates' noise as one batch, item-major: row = item * candidates + candidate."""

    def __init__(self, noises: list[ItemNoise]) -> None:
        self.noises = noises

    def draw(self, shape: tuple[int, ...] | torch.Size) -> Tensor:
        return torch.stack([noise.draw(shape) for noise in self.noises], dim=1).flatten(0, 1)
