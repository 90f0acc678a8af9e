"""The decoder stage: image embeddings, captions or neither -> pictures (§2.1)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checks import check_count
from ..clip.model import Clip
from ..config import DecoderConfig
from ..diffusion.denoiser import Denoiser, Network, edits_of_patches
from ..diffusion.invert import Inverted, ddim_invert
from ..diffusion.noise import ItemNoise
from ..diffusion.samplers import Sampling, StepState, ddim
from ..models.decoder import Autoencoder, DecoderNetwork, inpaint_input
from ..models.lora import AppliedLora, Lora
from ..models.stable_decoder import EmbedNormalizer, StableDecoderNetwork
from ..pictures.fitting import fit_picture
from ..runtime.device import memory_format
from ..runtime.estimates import bytes_to_ask_for, rows_that_fit, split_rows, unet_row_bytes
from ..runtime.placement import Placed
from ..types import (
    Embedding,
    GivenNoise,
    Noise,
    TextEncoding,
    broadcast_batch,
    expand_rows,
    model_to_image,
    warn_of_crossed_captions,
)
from .clip_guidance import ClipGuidance, clip_guidance
from .conditions import Conditions
from .embed_noise import noise_embedding
from .grid import Grid, resolve_grid
from .guidance_interval import GuidanceInterval, guidance_interval
from .inversion import describe, resolve_decoding, resolve_inversion, with_round_trip
from .lora import add_lora, branched, records
from .own_text import OwnText
from .run import (
    ImageSteps,
    Settings,
    exactly,
    finish,
    resolve_settings,
    run_chunks,
    time_table,
    until_it_fits,
    with_last_step,
)
from .start import Start, given_x_T, resolve_start, steps_from
from .step_cache import StepCache, step_cache
from .text import TextStage

NoiseSteps = Generator[StepState, None, GivenNoise]


@dataclass(frozen=True, eq=False)
class DepthHint:
    """A depth picture, IMAGE (B, H, W, C), and how it is cropped to a run's size."""

    image: Tensor
    crop: str = "center"


@dataclass(frozen=True, eq=False)
class Decoder(TextStage):
    """The decoder: image embeddings, captions or neither -> pictures (§2.1).

    autoencoder: of a latent decoder. encode_null_image: gives the null embedding of a decoder for which it is CLIP's
    of an all-zero picture. guidance_by_clip, hint, loras, interval, cache: what `with_clip_guidance`,
    `with_depth_hint`, `with_lora`, `with_guidance_interval` and `with_step_cache` added. own_text: of a decoder with a
    text encoder of its own. normalizer: of a Stable unCLIP, the units in which embeddings are noised.
    """

    config: DecoderConfig
    network: Placed[DecoderNetwork | StableDecoderNetwork]
    autoencoder: Placed[Autoencoder] | None = None
    encode_null_image: Callable[[], Embedding] | None = None
    guidance_by_clip: tuple[ClipGuidance, ...] = ()
    hint: DepthHint | None = None
    loras: tuple[AppliedLora, ...] = ()
    own_text: OwnText | None = None
    normalizer: Placed[EmbedNormalizer] | None = None
    interval: GuidanceInterval | None = None
    cache: StepCache | None = None

    WHO = "Decoder Sample"

    def noise_embedding(self, embed: Embedding, noise_level: int, seed: int = 0) -> Embedding:
        """`embed` with noise of a level (0..999) that this decoder is told when it paints it: the higher, the freer.

        Item i has noise of seed + i. Raises ValueError for a decoder that is told no level, another CLIP's embedding,
        or a level out of range.
        """
        return noise_embedding(self.config, self.normalizer, embed, noise_level, seed)

    def with_clip_guidance(self, clip: Clip, scale: float) -> Decoder:
        """This decoder, steered by CLIP at every step toward the sampler's text, without one its embed.

        scale: from 0 (not at all) up, 1 is gentle. Raises ValueError for another CLIP or a negative scale.
        """
        guidance = clip_guidance("CLIP Guidance", clip, scale, self.config)
        return self if guidance is None else replace(self, guidance_by_clip=(*self.guidance_by_clip, guidance))

    def with_depth_hint(self, image: Tensor, crop: str = "center") -> Decoder:
        """This decoder, led by a depth picture: IMAGE (B, H, W, C) in 0..1, near things bright.

        crop: how it is brought to the run's size. Raises ValueError for a decoder without that input, and for what is
        no picture.
        """
        who = "Depth Hint"
        if self.config.extra_input != "hint":
            raise ValueError(
                f"{who}: the decoder {self.config.decoder_id} has no input for a hint; load a controlnet decoder, such "
                "as kandinsky-2-2-controlnet-depth"
            )
        fit_picture(who, image, (1, 1), crop)  # which says what is wrong with it
        return replace(self, hint=DepthHint(image, crop))

    def with_lora(self, lora: Lora, strength: float = 1.0) -> Decoder:
        """This decoder with a LoRA more, for sampling and inversion; strength 1 is as it was trained.

        Raises ValueError for branches of another network, and for a strength that is no number.
        """
        return add_lora("decoder", self, lora, strength)

    def with_guidance_interval(self, start: float, end: float) -> Decoder:
        """This decoder, guided between two shares of the schedule alone (0 pure noise, 1 the picture), for sampling and
        inversion; outside it makes one forward a step instead of two. 0 to 1 is guidance everywhere.

        It takes the place of an earlier interval. Raises ValueError unless 0 <= start < end <= 1.
        """
        return replace(self, interval=guidance_interval(start, end))

    def with_step_cache(self, interval: int, depth: int = 2) -> Decoder:
        """This decoder, whose U-Net runs as a whole at every `interval`-th step and else its outer `depth` blocks on
        either way alone; an interval of 1 is off. Inversion, and decoding what was inverted, run every step whole.

        It takes the place of an earlier cache. Raises ValueError for numbers out of range.
        """
        return replace(self, cache=step_cache("decoder", self.config.unet, interval, depth))

    def null_text(self) -> TextEncoding | None:
        """See `TextStage`; of a decoder with a text encoder of its own, what that makes of the empty caption."""
        return super().null_text() if self.own_text is None else self.own_text.encode(("",))

    def check_text(self, text: TextEncoding, who: str = "") -> TextEncoding:
        """See `TextStage`; a decoder with a text encoder of its own takes the captions of any CLIP."""
        if self.own_text is not None and isinstance(text, TextEncoding):
            return text
        return super().check_text(text, who)

    def null_embed(self) -> Embedding | None:
        """CLIP's embedding of an all-zero picture, or None for a stack whose network holds its own null.

        Raises ValueError when the stack needs it and has no CLIP, or none that reads pictures.
        """
        if self.config.null_embed != "zero_picture":
            return None
        if self.encode_null_image is None:
            raise ValueError(
                f"{self.WHO}: this model's null embedding is CLIP's of an all-zero picture, but it was opened without "
                "its CLIP; open it with encode_null_image=clip.encode_null_image"
            )
        return self.encode_null_image()

    def sample(self, embed: Embedding | None = None, text: TextEncoding | None = None, **options) -> Tensor:
        """`sample_steps`, run to its end: pictures (B, H, W, 3) float32 in 0..1 on the CPU."""
        return finish(self.sample_steps(embed, text, **options))

    def sample_steps(
        self,
        embed: Embedding | None = None,
        text: TextEncoding | None = None,
        *,
        negative_embed: Embedding | None = None,
        negative_text: TextEncoding | None = None,
        noise: Noise | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        eta: float | None = None,
        sampler: str | None = None,
        seed: int = 0,
        noise_per_item: bool = True,
        count: int = 1,
        width: int | None = None,
        height: int | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ) -> ImageSteps:
        """Yields every step; returns pictures (B, H, W, 3) float32 in 0..1 on the CPU.

        embed, text: None is the stack's null condition. negative_embed, negative_text: take the nulls' places in
        guidance. noise: where to start; None draws x_T from the seed; an inverted one is decoded in float32, unclamped,
        over its own timesteps. Batches of 1 broadcast; of B captions and B * k embeddings each caption goes with k in a
        row, as a prior makes them. noise_per_item off: every item uses item 0's draws. count: pictures of each item, 1
        to MAX_COUNT, row = item * count + k. eta: for the sampler "ddim". width, height: of a latent decoder's
        pictures, in pixels; None is the size that it was trained at, or that of a noise which has one. warn: called for
        every value without effect, and for a size that is rounded. Raises ValueError for another CLIP's input, unequal
        batches or a value out of range.
        """
        config = self.config
        conditions = self._check(self.WHO, Conditions(embed, text, negative_embed, negative_text))
        for guidance in self.guidance_by_clip:
            guidance.check_target(self.WHO, embed, text)
        conditions = self._without_unread(self.WHO, conditions, warn, guided=bool(self.guidance_by_clip))
        if conditions.embed is not None and conditions.text is not None:
            warn_of_crossed_captions(self.WHO, conditions.embed, conditions.text, warn)
        x_T = given_x_T(self.WHO, noise)
        grid = resolve_grid(self.WHO, config, self.autoencoder, width, height, x_T, warn)
        start = resolve_start(self.WHO, noise, grid, warn)
        self._check_extra_input(self.WHO, start)
        given = {"sampler": sampler, "steps": steps, "guidance_scale": guidance_scale, "eta": eta}
        if start.inversion is not None:
            settings = resolve_decoding(
                self.WHO, config, start.inversion, **given, loras=records(self.loras), interval=self.interval, warn=warn
            )
        else:
            settings = resolve_settings(self.WHO, config.schedule, config.sampling, **given)
        settings = self._guided(steps_from(settings, config.schedule, start.strength))
        self._warn_of_no_effect(settings, eta, conditions, start, warn)
        check_count(self.WHO, "count", count)
        batch = count * broadcast_batch(self.WHO, **conditions.sizes(), **start.sizes(), **self._hint_size())
        items = ItemNoise(seed, batch, "decoder", shared=not noise_per_item)

        def run() -> ImageSteps:
            return self._sample(settings, conditions, start, grid, count, items)

        if start.inversion is not None:
            return exactly(until_it_fits([self.network.as_float32()], run, warn))
        return until_it_fits([self.network], run, warn)

    @torch.no_grad()
    def _sample(
        self, settings: Settings, conditions: Conditions, start: Start, grid: Grid, count: int, items: ItemNoise
    ) -> ImageSteps:
        placed = self.network
        if start.inversion is not None:
            placed, grid = placed.as_float32(), grid.as_float32()
        # All that other networks give, before this one is loaded: on one device they may not fit together.
        nulled = self._with_nulls(conditions, settings.pair).repeat(count)
        start = start.on_grid(grid, inpaint=self.config.extra_input == "inpaint").repeat(count)
        # By itself: what held the network could not free its memory for the autoencoder's sake.
        x_0, last = yield from self._painted(placed, settings, conditions.repeat(count), nulled, start, grid, items)
        pictures = []
        for decoded in grid.decode_parts(x_0):
            if pictures:
                yield last  # again: between two pictures a run can be cancelled
            pictures.append(decoded)
        picture = torch.cat(pictures)
        return model_to_image(picture if start.picture is None else grid.paste(picture, start.picture))

    def _painted(
        self,
        placed: Placed[DecoderNetwork | StableDecoderNetwork],
        settings: Settings,
        conditions: Conditions,
        nulled: Conditions,
        start: Start,
        grid: Grid,
        items: ItemNoise,
    ) -> Generator[StepState, None, tuple[Tensor, StepState]]:
        """x_0 of all items (B, C, h, w) on the CPU, and the last step. nulled: `conditions` as the network reads
        them."""
        batch = items.count
        clips = [guidance.clip.placed for guidance in self.guidance_by_clip]
        beside = (*clips, *grid.guidance_networks()) if clips else ()
        row_bytes = self._row_bytes(placed, settings, grid)
        network = branched(placed.on_device(*beside, need=bytes_to_ask_for(batch, row_bytes)), self.loras)
        times = time_table(network.time_features, settings.steps, placed.device)
        hint = self._fit_hint(grid)

        def sample(rows: slice) -> Sampling:
            noise = items.rows(rows)
            # Drawn even where the start is given: otherwise the first step's fresh noise would be the very x_T that
            # Random Noise draws from this seed.
            drawn = noise.draw(grid.shape).to(placed.device)
            x_t, known = start.begin(drawn, settings, rows, batch)
            edits = [
                guidance.edit(conditions.embed, conditions.text, rows, batch, grid)
                for guidance in self.guidance_by_clip
            ]
            # Not in what was inverted, which is to come back as it was.
            if start.inversion is None:
                edits += edits_of_patches(self.config.unet.patch_size)
            extra = self._extra_input(network, start, hint, rows, batch)
            cache = self.cache if start.inversion is None else None
            conditioned = self._conditioned(network, times, settings, nulled, rows, extra, cache)
            denoise = settings.denoiser(conditioned, edits, known)
            return settings.run_sampler(denoise, x_t.contiguous(memory_format=memory_format(placed.device)), noise)

        chunks = split_rows(batch, rows_that_fit(placed.device, row_bytes))
        painted = run_chunks(self.WHO, chunks, sample, placed.weights, placed.device, preview=grid.preview)
        x_0, last = yield from with_last_step(painted)
        return torch.cat(x_0), last

    def invert(
        self, image: Tensor, embed: Embedding | None = None, text: TextEncoding | None = None, **options
    ) -> GivenNoise:
        """`invert_steps`, run to its end."""
        return finish(self.invert_steps(image, embed, text, **options))

    def invert_steps(
        self,
        image: Tensor,
        embed: Embedding | None = None,
        text: TextEncoding | None = None,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        refine: int = 3,
        crop: str = "center",
        width: int | None = None,
        height: int | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ) -> NoiseSteps:
        """The noise (B, C, h, w) from which `sample` paints IMAGE (B, H, W, C) again (paper §3, bipartite latent).

        embed, text: the conditions to invert under, usually the picture's own embed; None is the null condition.
        steps: as many as it is to be decoded in; None the stack's own. guidance_scale: None is 1, no guidance.
        refine: fixed-point iterations a step at most, each one forward; 0 is plain DDIM. width, height: what the
        picture is brought to, and warn: see `sample_steps`. Always in float32. Raises ValueError for another CLIP's
        input, unequal batches or a value out of range.
        """
        who = "DDIM Invert"
        settings = self._guided(resolve_inversion(who, self.config, steps, guidance_scale, refine))
        self._warn_of_whole_steps(who, warn)
        conditions = self._without_unread(who, self._check(who, Conditions(embed, text)), warn)
        grid = resolve_grid(who, self.config, self.autoencoder, width, height, None, warn)
        self._check_extra_input(who, Start())
        picture = grid.fit(image, crop)
        batch = broadcast_batch(who, image=len(picture), **conditions.sizes(), **self._hint_size())
        exact = grid.as_float32()

        def run() -> NoiseSteps:
            return self._invert(settings, conditions, picture, exact, batch, refine)

        return exactly(until_it_fits([self.network.as_float32()], run, warn))

    @torch.no_grad()
    def _invert(
        self, settings: Settings, conditions: Conditions, picture: Tensor, grid: Grid, batch: int, refine: int
    ) -> NoiseSteps:
        nulled = self._with_nulls(conditions, settings.pair)
        known = grid.encode(picture)
        # By itself, as in `_sample`.
        x_T, residual, x_0 = yield from self._inverted(settings, nulled, known, grid, batch, refine)
        text, loras = None if conditions.text is None else nulled.text, records(self.loras)
        inversion = describe(self.config, settings, conditions.embed, text, residual, loras, self.interval)
        if x_0 is not None:
            inversion = with_round_trip(inversion, x_0 - known[:1], grid.decode(x_0) - picture[:1])
        return GivenNoise(x_T, inversion)

    def _inverted(
        self, settings: Settings, nulled: Conditions, known: Tensor, grid: Grid, batch: int, refine: int
    ) -> Generator[StepState, None, tuple[Tensor, Tensor, Tensor | None]]:
        """x_T (B, C, h, w) and residuals of all items, and what the first of them leads back to on a lossy grid, all on
        the CPU. nulled: the conditions as the network reads them."""
        placed = self.network.as_float32()
        row_bytes = self._row_bytes(placed, settings, grid)
        network = branched(placed.on_device(need=bytes_to_ask_for(batch, row_bytes)), self.loras)
        times = time_table(network.time_features, settings.steps, placed.device)
        hint = self._fit_hint(grid)

        def denoiser(rows: slice) -> Denoiser:
            extra = self._extra_input(network, Start(), hint, rows, batch)
            return settings.denoiser(self._conditioned(network, times, settings, nulled, rows, extra))

        def invert(rows: slice) -> Generator[StepState, None, Inverted]:
            x_0 = expand_rows(known, batch)[rows].to(placed.device)
            x_0 = x_0.contiguous(memory_format=memory_format(placed.device))
            return ddim_invert(denoiser(rows), x_0, settings.steps, refine=refine)

        chunks = split_rows(batch, rows_that_fit(placed.device, row_bytes))
        run = run_chunks(settings.who, chunks, invert, None, placed.device, preview=grid.preview)
        inverted, last = yield from with_last_step(run)
        residual = torch.cat([chunk.residual.float() for chunk in inverted])
        x_T = torch.cat([chunk.x_T.float() for chunk in inverted])
        if not grid.lossy:
            return x_T, residual, None

        # What one step leaves open says nothing of pixels, so the first picture goes the whole way back.
        def back(rows: slice) -> Sampling:
            return ddim(denoiser(rows), x_T[rows].to(placed.device), settings.steps)

        options = {"steps_before": last.index + 1, "preview": grid.preview}
        (x_0,) = yield from run_chunks(settings.who, [slice(0, 1)], back, None, placed.device, **options)
        return x_T, residual, x_0

    def _guided(self, settings: Settings) -> Settings:
        """The settings, with the timesteps at which this decoder is guided."""
        if self.interval is None:
            return settings
        return replace(settings, guided_at=self.interval.guided_at(settings.steps, self.config.schedule.timesteps))

    def _warn_of_whole_steps(self, who: str, warn: Callable[[str], None]) -> None:
        if self.cache is not None:
            warn(
                f"{who}: an inversion is exact or worth little, so every step runs the whole network, and Step Cache "
                "has no effect; link the decoder from before it"
            )

    def _check(self, who: str, conditions: Conditions) -> Conditions:
        """The conditions, with a caption for each embedding. Raises ValueError for what is none, or another CLIP's."""
        for name, embed in (("embed", conditions.embed), ("negative_embed", conditions.negative_embed)):
            if embed is not None:
                self.check_embed(name, embed, who)
        for text in (conditions.text, conditions.negative_text):
            if text is not None:
                self.check_text(text, who)
        return conditions.with_text_of_each_embed()

    def _check_extra_input(self, who: str, start: Start) -> None:
        """Raises ValueError for a decoder that needs a mask or a hint and has none."""
        kind, name = self.config.extra_input, self.config.decoder_id
        if kind == "inpaint" and (start.picture is None or start.picture.mask is None):
            raise ValueError(
                f"{who}: {name} repaints a part of a picture, but there is no mask; "
                + (
                    "link Start From Picture with a mask to noise, or load the model without -inpaint"
                    if who == self.WHO
                    else "load the model without -inpaint"
                )
            )
        if kind == "hint" and self.hint is None:
            raise ValueError(
                f"{who}: {name} follows a depth picture, but got none; put Depth Hint between Load unCLIP and this node"
            )

    def _hint_size(self) -> dict[str, int]:
        return {} if self.hint is None else {"hint": len(self.hint.image)}

    def _fit_hint(self, grid: Grid) -> Tensor | None:
        """The depth hint (B, 3, H, W) in 0..1, of the picture's size."""
        return None if self.hint is None else (grid.fit(self.hint.image, self.hint.crop) + 1.0) * 0.5

    def _extra_input(
        self, network: DecoderNetwork, start: Start, hint: Tensor | None, rows: slice, batch: int
    ) -> Tensor | None:
        """The input channels after x_t's (B, C, h, w) for the given rows of `batch`, on the network's device."""
        device = self.network.device
        if hint is not None:
            return network.hint(expand_rows(hint, batch)[rows].to(device))
        if self.config.extra_input == "none":
            return None
        known, mask = start.rows(rows, batch, device)
        return inpaint_input(known, 1.0 - mask)

    def _warn_of_no_effect(
        self,
        settings: Settings,
        eta: float | None,
        conditions: Conditions,
        start: Start,
        warn: Callable[[str], None],
    ) -> None:
        """Warn of values that have no effect, and of a run without any condition."""
        if eta and settings.sampler != "ddim":
            warn(
                f"{self.WHO}: eta {eta:g} has no effect with the sampler {settings.sampler}; choose ddim, or set eta "
                "to 0"
            )
        negatives = conditions.negative_embed, conditions.negative_text
        if settings.guidance_scale == 1.0 and any(each is not None for each in negatives):
            warn(f"{self.WHO}: at guidance_scale 1 the negatives have no effect; raise it, or unlink them")
        if self.interval is not None and start.inversion is None:
            if settings.guidance_scale == 1.0:
                warn(
                    f"{self.WHO}: at guidance_scale 1 Guidance Interval has no effect; raise guidance_scale, or link "
                    "the decoder from before it"
                )
            elif not settings.guided_at:
                warn(
                    f"{self.WHO}: none of the {len(settings.steps)} steps lies within the guidance interval "
                    f"{self.interval}, so nothing is guided; widen it, or make more steps"
                )
        if start.inversion is not None:
            self._warn_of_whole_steps(self.WHO, warn)
        levels = [e.noise_level for e in (conditions.embed, conditions.negative_embed) if e is not None]
        if self.config.embed_noise is None and any(levels):
            warn(
                f"{self.WHO}: the embedding has noise of level {max(levels)}, which this decoder is not told and "
                "paints as it is; link the one from before Noise Embedding"
            )
        # An inverted x_T may well be of the null condition.
        if conditions.embed is None and self._read(conditions.text) is None and start.inversion is None:
            unlinked, link = ("neither embed nor text", ", a text or both") if self.reads_text else ("no embed", "")
            warn(
                f"{self.WHO}: {unlinked} is linked, so it paints without any condition, which most decoders can only "
                f"do as a blur; link an embed{link}"
            )

    def _row_bytes(self, placed: Placed[DecoderNetwork], settings: Settings, grid: Grid) -> int:
        _, height, width = grid.shape
        rows = 2 if settings.pair else 1
        size = rows * unet_row_bytes(self.config.unet, height, width, placed.dtype.itemsize)
        clips = [guidance.clip for guidance in self.guidance_by_clip]
        return size + max((grid.guidance_bytes(clip.image_size) + clip.gradient_bytes() for clip in clips), default=0)

    @property
    def reads_text(self) -> bool:
        """Whether a caption makes a difference to the network."""
        return self.config.text != "none"

    def _read(self, text: TextEncoding | None) -> TextEncoding | None:
        """The text as the network gets it: none, if it reads none."""
        return text if self.reads_text else None

    def _without_unread(
        self, who: str, conditions: Conditions, warn: Callable[[str], None], *, guided: bool = False
    ) -> Conditions:
        """The conditions without texts that nothing reads, which is warned of. guided: CLIP Guidance reads the text."""
        text = conditions.text if guided else self._read(conditions.text)
        kept = replace(conditions, text=text, negative_text=self._read(conditions.negative_text))
        if kept.text is not conditions.text or kept.negative_text is not conditions.negative_text:
            warn(
                f"{who}: this decoder reads no captions, so a text has no effect on it; the prior reads them, and what "
                "is to be avoided goes through a prior of its own to negative_embed"
            )
        return kept

    def _with_nulls(self, conditions: Conditions, pair: bool) -> Conditions:
        """The conditions as the network gets them: with what the stack's nulls are encoded as for each that is None.

        To be called before the network is loaded: on one device, CLIP and the network may not fit together.
        """
        embed, negative_embed = conditions.embed, conditions.negative_embed
        if embed is None or (pair and negative_embed is None):
            null = self.null_embed()
            embed = null if embed is None else embed
            negative_embed = null if negative_embed is None else negative_embed
        text, negative_text = (self._encoded(self._read(each)) for each in (conditions.text, conditions.negative_text))
        if self.reads_text and (text is None or (pair and negative_text is None)):
            null = self.null_text()
            text = null if text is None else text
            negative_text = null if negative_text is None else negative_text
        return Conditions(embed, text, negative_embed, negative_text)

    def _encoded(self, text: TextEncoding | None) -> TextEncoding | None:
        """The text as the decoder's own text encoder encodes its captions, if it has one."""
        return text if text is None or self.own_text is None else self.own_text.encode(text.captions)

    def _conditioned(
        self,
        network: DecoderNetwork,
        times: dict[int, Tensor],
        settings: Settings,
        conditions: Conditions,
        rows: slice,
        extra: Tensor | None,
        cache: StepCache | None = None,
    ) -> Network:
        """The network, conditioned for some rows and, for a pair, for as many unconditional ones after them.

        extra: the input channels after x_t's, the same for both."""
        if extra is not None and settings.pair:
            extra = torch.cat([extra, extra])
        conditioning = conditions.conditioning(network, rows, settings.pair, extra, self.network.device)
        count = rows.stop - rows.start
        by_rows = {len(conditioning): conditioning, count: conditioning.first(count)}  # steps without guidance take one
        memory = (lambda step: None) if cache is None else cache.memory(settings.steps)
        return lambda x_t, step: network(x_t, None, by_rows[len(x_t)], time=times[step.t], deep=memory(step))
