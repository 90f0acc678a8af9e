"""The settings of an inversion, those of decoding its x_T again, and the record of the first that the second checks."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ..checks import is_whole
from ..config import DecoderConfig
from ..diffusion.denoiser import needs_pair
from ..diffusion.schedule import Schedule
from ..types import Embedding, Inversion, LoraRecord, TextEncoding
from .guidance_interval import GuidanceInterval
from .run import Settings, resolve_settings

log = logging.getLogger("comfyui_unclip")
MAX_REFINE = 100


def resolve_inversion(
    who: str, config: DecoderConfig, steps: int | None, guidance_scale: float | None, refine: int
) -> Settings:
    """How a picture is inverted: over timesteps that can be, never clamped, without guidance unless asked for."""
    if not is_whole(refine) or not 0 <= refine <= MAX_REFINE:
        raise ValueError(f"{who}: refine must be a whole number from 0 (plain DDIM) to {MAX_REFINE}, got {refine!r}")
    scale = 1.0 if guidance_scale is None else guidance_scale
    settings = resolve_settings(
        who, config.schedule, config.sampling, sampler="ddim", steps=steps, guidance_scale=scale, eta=0.0
    )
    schedule = Schedule(config.schedule)
    try:
        timesteps = schedule.invertible_timesteps(len(settings.steps))
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None
    return replace(settings, steps=schedule.steps_through(timesteps), x0_clamp=None)


def resolve_decoding(
    who: str,
    config: DecoderConfig,
    inversion: Inversion,
    *,
    sampler: str | None,
    steps: int | None,
    guidance_scale: float | None,
    eta: float | None,
    loras: tuple[LoraRecord, ...] = (),
    interval: GuidanceInterval | None = None,
    warn: Callable[[str], None],
) -> Settings:
    """How an inverted x_T is decoded: over its own timesteps; None is the value that it was inverted with.

    loras, interval: the decoder's. Raises ValueError for another decoder or other steps; warns about what will not
    lead back to the picture.
    """
    if inversion.decoder_id != config.decoder_id:
        raise ValueError(
            f"{who}: this x_T was inverted with the decoder {inversion.decoder_id}, but this one is "
            f"{config.decoder_id}; invert the picture with the decoder that paints it"
        )
    count = len(inversion.timesteps)
    if steps not in (None, count):
        raise ValueError(
            f"{who}: this x_T was inverted in {count} steps, but is to be decoded in {steps!r}; set steps to {count} "
            "or 0, or invert the picture again with the same steps"
        )
    settings = resolve_settings(
        who,
        config.schedule,
        config.sampling,
        sampler="ddim" if sampler is None else sampler,
        steps=count,
        guidance_scale=inversion.guidance_scale if guidance_scale is None else guidance_scale,
        eta=eta,
    )
    try:
        schedule_steps = Schedule(config.schedule).steps_through(inversion.timesteps)
    except ValueError as error:
        raise ValueError(f"{who}: this x_T's {error}; invert the picture again") from None
    if settings.guidance_scale != inversion.guidance_scale:
        warn(
            f"{who}: this x_T was inverted at guidance_scale {inversion.guidance_scale:g}, but is decoded at "
            f"{settings.guidance_scale:g}, so it will not lead back to its picture; use the same on both nodes"
        )
    elif settings.pair and _bounds(interval) != inversion.guidance_interval:
        before, now = (
            "everywhere" if bounds is None else f"from {bounds[0]:g} to {bounds[1]:g}"
            for bounds in (inversion.guidance_interval, _bounds(interval))
        )
        warn(
            f"{who}: this x_T was inverted with guidance {before}, but is decoded with guidance {now}, so it will not "
            "lead back to its picture; link one decoder to both nodes"
        )
    if settings.sampler != "ddim":
        warn(
            f"{who}: an inverted x_T leads back to its picture with the sampler ddim alone, not with "
            f"{settings.sampler}; choose ddim or auto"
        )
    if _numbers(loras) != _numbers(inversion.loras):
        warn(
            f"{who}: this x_T was inverted with {LoraRecord.describe(inversion.loras)}, but is decoded with "
            f"{LoraRecord.describe(loras)}, so it will not lead back to its picture; link one decoder to both nodes"
        )
    return replace(settings, steps=schedule_steps, x0_clamp=None)


def _bounds(interval: GuidanceInterval | None) -> tuple[float, float] | None:
    return None if interval is None else (interval.start, interval.end)


def _numbers(loras: tuple[LoraRecord, ...]) -> list[tuple[str, float]]:
    """What counts of LoRAs: their order does not, nor what their files are called."""
    return sorted((lora.fingerprint, lora.strength) for lora in loras)


def describe(
    config: DecoderConfig,
    settings: Settings,
    embed: Embedding | None,
    text: TextEncoding | None,
    residual: Tensor,
    loras: tuple[LoraRecord, ...] = (),
    interval: GuidanceInterval | None = None,
) -> Inversion:
    """The record that travels with an inverted x_T."""
    return Inversion(
        timesteps=tuple(step.t for step in settings.steps),
        decoder_id=config.decoder_id,
        guidance_scale=settings.guidance_scale,
        embed_hash=fingerprint(None if embed is None else embed.vector),
        text_hash=fingerprint(None if text is None else text.tokens),
        residual=residual.max().item(),
        loras=loras,
        guidance_interval=_bounds(interval) if needs_pair(settings.guidance_scale) else None,
    )


def with_round_trip(inversion: Inversion, latents: Tensor, pixels: Tensor) -> Inversion:
    """The record with what the way there and back changed in one picture: differences of its latents and its pixels."""
    errors = [difference.float().square().mean().sqrt().item() for difference in (latents, pixels)]
    log.info(
        "DDIM Invert: decoded again, the first picture is off by %.2g in latents and %.2g in pixels (RMS, -1..1), the "
        "autoencoder's own loss included; no step is off by more than %.2g",
        *errors,
        inversion.residual,
    )
    return replace(inversion, latent_error=errors[0], pixel_error=errors[1])


def fingerprint(values: Tensor | None) -> str:
    """A short hash of a tensor's values; "" for None."""
    if values is None:
        return ""
    return hashlib.blake2b(values.float().cpu().contiguous().numpy().tobytes(), digest_size=8).hexdigest()
