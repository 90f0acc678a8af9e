"""The decoder stage: image embeddings, captions or neither -> pictures (§2.1)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..clip.model import Clip
from ..config import DecoderConfig
from ..diffusion.denoiser import Network
from ..diffusion.invert import Inverted, ddim_invert
from ..diffusion.noise import ItemNoise
from ..diffusion.samplers import Sampling, StepState
from ..models.decoder import Autoencoder, Conditioning, DecoderNetwork
from ..models.lora import AppliedLora, Lora
from ..pictures.fitting import fit_picture
from ..runtime.device import memory_format
from ..runtime.estimates import bytes_to_ask_for, rows_that_fit, unet_row_bytes
from ..runtime.placement import Placed
from ..types import (
    Embedding,
    GivenNoise,
    Noise,
    TextEncoding,
    broadcast_batch,
    expand_rows,
    model_to_image,
    repeat_rows,
)
from .clip_guidance import ClipGuidance, clip_guidance
from .inversion import describe, resolve_decoding, resolve_inversion
from .lora import add_lora, branched, records
from .run import ImageSteps, Settings, check_count, finish, resolve_settings, run_chunks, split_rows, time_table
from .start import Start, resolve_start, steps_from
from .text import TextRows, TextStage, stack_texts

NoiseSteps = Generator[StepState, None, GivenNoise]


@dataclass(frozen=True)
class Conditions:
    """What a run paints, and what guidance leads away from (the negatives). None is the stack's own null."""

    embed: Embedding | None = None
    text: TextEncoding | None = None
    negative_embed: Embedding | None = None
    negative_text: TextEncoding | None = None

    def sizes(self) -> dict[str, int]:
        """Batch sizes by input name."""
        return {name: len(value) for name, value in vars(self).items() if value is not None}

    def repeat(self, count: int) -> Conditions:
        """Every item `count` times in a row."""
        return Conditions(*repeat_rows(count, self.embed, self.text, self.negative_embed, self.negative_text))


@dataclass(frozen=True, eq=False)
class Decoder(TextStage):
    """The decoder: image embeddings, captions or neither -> pictures (§2.1).

    autoencoder: of a latent decoder. encode_null_image: gives the null embedding of a decoder for which it is CLIP's
    of an all-zero picture. guidance_by_clip, loras: what `with_clip_guidance` and `with_lora` added.
    """

    config: DecoderConfig
    network: Placed[DecoderNetwork]
    autoencoder: Placed[Autoencoder] | None = None
    encode_null_image: Callable[[], Embedding] | None = None
    guidance_by_clip: tuple[ClipGuidance, ...] = ()
    loras: tuple[AppliedLora, ...] = ()

    WHO = "Decoder Sample"

    def with_clip_guidance(self, clip: Clip, scale: float) -> Decoder:
        """This decoder, steered by CLIP at every step toward the sampler's text, without one its embed.

        scale: from 0 (not at all) up, 1 is gentle. Raises ValueError for another CLIP or a negative scale.
        """
        guidance = clip_guidance("CLIP Guidance", clip, scale, self.config)
        return self if guidance is None else replace(self, guidance_by_clip=(*self.guidance_by_clip, guidance))

    def with_lora(self, lora: Lora, strength: float = 1.0) -> Decoder:
        """This decoder with a LoRA more, for sampling and inversion; strength 1 is as it was trained.

        Raises ValueError for branches of another network, and for a strength that is no number.
        """
        return add_lora("decoder", self, lora, strength)

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
        """`sample_steps`, run to its end: pictures (B, S, S, 3) float32 in 0..1 on the CPU."""
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
        warn: Callable[[str], None] = warnings.warn,
    ) -> ImageSteps:
        """Yields every step; returns pictures (B, S, S, 3) float32 in 0..1 on the CPU, S = the decoder's size (64).

        embed, text: None is the stack's null condition. negative_embed, negative_text: take the nulls' places in
        guidance. noise: where to start; None draws x_T from the seed; an inverted one is decoded in float32, unclamped,
        over its own timesteps. Batches of 1 broadcast. noise_per_item off: every item uses item 0's draws. count:
        pictures of each item, row = item * count + k. eta: for the sampler "ddim". warn: called for every
        value without effect. Raises ValueError for another CLIP's input, unequal batches or a value out of range.
        """
        config = self.config
        conditions = self._check(self.WHO, Conditions(embed, text, negative_embed, negative_text))
        start = resolve_start(self.WHO, noise, config.channels, config.unet.image_size, warn)
        given = {"sampler": sampler, "steps": steps, "guidance_scale": guidance_scale, "eta": eta}
        if start.inversion is not None:
            settings = resolve_decoding(
                self.WHO, config, start.inversion, **given, loras=records(self.loras), warn=warn
            )
        else:
            settings = resolve_settings(self.WHO, config.schedule, config.sampling, **given)
        settings = steps_from(settings, config.schedule, start.strength)
        self._warn_of_no_effect(settings, eta, conditions, start, warn)
        for guidance in self.guidance_by_clip:
            guidance.check_target(self.WHO, embed, text)
        if check_count(self.WHO, "count", count) > 1:
            conditions, start = conditions.repeat(count), start.repeat(count)
        # Several items are repeated already, one broadcasts.
        batch = max(count, broadcast_batch(self.WHO, **conditions.sizes(), **start.sizes()))
        items = ItemNoise(seed, batch, "decoder", shared=not noise_per_item)
        return self._sample(settings, conditions, start, batch, items)

    @torch.no_grad()
    def _sample(
        self, settings: Settings, conditions: Conditions, start: Start, batch: int, items: ItemNoise
    ) -> ImageSteps:
        placed = self.network if start.inversion is None else self.network.as_float32()
        with_nulls = self._with_null_text(conditions, settings.pair)
        clips = [guidance.clip.placed for guidance in self.guidance_by_clip]
        network = placed.on_device(*clips, need=bytes_to_ask_for(batch, self._row_bytes(placed, settings)))
        network = branched(network, self.loras)
        times = time_table(network.time_features, settings.steps, placed.device)
        size = (self.config.channels, self.config.unet.image_size, self.config.unet.image_size)

        def sample(rows: slice) -> Sampling:
            noise = items.rows(rows)
            # Drawn even where the start is given: otherwise the first step's fresh noise would be the very x_T that
            # Random Noise draws from this seed.
            drawn = noise.draw(size).to(placed.device)
            x_t, edits = start.begin(drawn, settings, rows, batch)
            by_clip = [
                guidance.edit(conditions.embed, conditions.text, rows, batch) for guidance in self.guidance_by_clip
            ]
            denoise = settings.denoiser(self._conditioned(network, times, settings, with_nulls, rows), by_clip + edits)
            return settings.run_sampler(denoise, x_t.contiguous(memory_format=memory_format(placed.device)), noise)

        chunks = split_rows(batch, rows_that_fit(placed.device, self._row_bytes(placed, settings)))
        x_0 = torch.cat((yield from run_chunks(self.WHO, chunks, sample, placed.dtype, placed.device)))
        return model_to_image(x_0 if start.picture is None else start.picture.paste(x_0))

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
    ) -> NoiseSteps:
        """The noise (B, 3, S, S) from which `sample` paints IMAGE (B, H, W, C) again (paper §3, bipartite latent).

        embed, text: the conditions to invert under, usually the picture's own embed; None is the null condition.
        steps: as many as it is to be decoded in; None the stack's own. guidance_scale: None is 1, no guidance.
        refine: fixed-point iterations a step at most, each one forward; 0 is plain DDIM. Always in float32.
        Raises ValueError for another CLIP's input, unequal batches or a value out of range.
        """
        who = "DDIM Invert"
        settings = resolve_inversion(who, self.config, steps, guidance_scale, refine)
        conditions = self._check(who, Conditions(embed, text))
        picture = fit_picture(who, image, self.config.unet.image_size, crop)
        batch = broadcast_batch(who, image=len(picture), **conditions.sizes())
        return self._invert(settings, conditions, picture, batch, refine)

    @torch.no_grad()
    def _invert(
        self, settings: Settings, conditions: Conditions, picture: Tensor, batch: int, refine: int
    ) -> NoiseSteps:
        placed = self.network.as_float32()
        with_nulls = self._with_null_text(conditions, settings.pair)
        network = placed.on_device(need=bytes_to_ask_for(batch, self._row_bytes(placed, settings)))
        network = branched(network, self.loras)
        times = time_table(network.time_features, settings.steps, placed.device)

        def invert(rows: slice) -> Generator[StepState, None, Inverted]:
            x_0 = expand_rows(picture, batch)[rows].to(placed.device)
            denoise = settings.denoiser(self._conditioned(network, times, settings, with_nulls, rows))
            x_0 = x_0.contiguous(memory_format=memory_format(placed.device))
            return ddim_invert(denoise, x_0, settings.steps, refine=refine)

        chunks = split_rows(batch, rows_that_fit(placed.device, self._row_bytes(placed, settings)))
        inverted = yield from run_chunks(settings.who, chunks, invert, None, placed.device)
        residual = torch.cat([chunk.residual.float() for chunk in inverted])
        x_T = torch.cat([chunk.x_T.float() for chunk in inverted])
        loras = records(self.loras)
        return GivenNoise(x_T, describe(self.config, settings, conditions.embed, conditions.text, residual, loras))

    def _check(self, who: str, conditions: Conditions) -> Conditions:
        """The conditions. Raises ValueError for what is none, or another CLIP's."""
        for name, embed in (("embed", conditions.embed), ("negative_embed", conditions.negative_embed)):
            if embed is not None:
                self.check_embed(name, embed, who)
        for text in (conditions.text, conditions.negative_text):
            if text is not None:
                self.check_text(text, who)
        return conditions

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
        if not settings.pair and (conditions.negative_embed is not None or conditions.negative_text is not None):
            warn(f"{self.WHO}: at guidance_scale 1 the negatives have no effect; raise it, or unlink them")
        # An inverted x_T may well be of the null condition.
        if conditions.embed is None and conditions.text is None and start.inversion is None:
            warn(
                f"{self.WHO}: neither embed nor text is linked, so it paints without any condition, which most "
                "decoders can only do as a blur; link an embed, a text or both"
            )

    def _row_bytes(self, placed: Placed[DecoderNetwork], settings: Settings) -> int:
        unet = self.config.unet
        return (2 if settings.pair else 1) * unet_row_bytes(unet, unet.image_size, placed.dtype.itemsize)

    def _with_null_text(self, conditions: Conditions, pair: bool) -> Conditions:
        """The conditions with the encoded empty caption for each text that is None, if that is the stack's null text.

        To be called before the network is loaded: on one device, CLIP and the network may not fit together.
        """
        if conditions.text is not None and (conditions.negative_text is not None or not pair):
            return conditions
        null = self.null_text()
        return replace(
            conditions,
            text=null if conditions.text is None else conditions.text,
            negative_text=null if conditions.negative_text is None else conditions.negative_text,
        )

    def _conditioned(
        self,
        network: DecoderNetwork,
        times: dict[int, Tensor],
        settings: Settings,
        conditions: Conditions,
        rows: slice,
    ) -> Network:
        """The network, conditioned for some rows and, for a pair, for as many unconditional ones behind them."""
        conditioning = self._condition(network, conditions, rows, settings.pair)
        return lambda x_t, step: network(x_t, None, conditioning, time=times[step.t])

    def _condition(self, network: DecoderNetwork, conditions: Conditions, rows: slice, pair: bool) -> Conditioning:
        device = network.embed_to_time.weight.device
        index = torch.arange(rows.start, rows.stop, device=device)
        embeds = [conditions.embed, conditions.negative_embed] if pair else [conditions.embed]
        vector, drop_embed = _stack_embeds(embeds, index, device)
        texts = [conditions.text, conditions.negative_text] if pair else [conditions.text]
        captions, drop_text = _stack_captions(texts, index, device)
        return network.condition(
            vector,
            *((captions.tokens, captions.mask, captions.embed, captions.ids) if captions is not None else ()),
            drop_embed=drop_embed,
            drop_text=drop_text,
            batch=len(texts) * len(index),
        )


def _stack_embeds(
    embeds: list[Embedding | None], index: Tensor, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """One half of rows after the other: (halves * B, D), None if all are null; and which rows are, None if none is."""
    given = [embed for embed in embeds if embed is not None]
    if not given:
        return None, None
    halves = []
    for embed in embeds:
        vector = (given[0] if embed is None else embed).vector.to(device)
        halves.append(vector[index if len(vector) > 1 else index * 0])
    return torch.cat(halves), _dropped(embeds, index)


def _stack_captions(
    texts: list[TextEncoding | None], index: Tensor, device: torch.device
) -> tuple[TextRows | None, Tensor | None]:
    """As `_stack_embeds`, for captions."""
    given = [text for text in texts if text is not None]
    if not given:
        return None, None
    halves = [TextRows.of(given[0] if text is None else text, device).take(index) for text in texts]
    stacked = halves[0] if len(halves) == 1 else stack_texts(*halves)
    return stacked, _dropped(texts, index)


def _dropped(halves: list, index: Tensor) -> Tensor | None:
    if all(half is not None for half in halves):
        return None
    return torch.cat([torch.full(index.shape, half is None, device=index.device) for half in halves])
