"""Image to image and inpainting: what a decoder run makes of a picture, a mask and a strength (extensions: §2 of the
paper has neither; replacement after GLIDE, Nichol et al. 2021, and RePaint, Lugmayr et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ..config import ScheduleConfig
from ..diffusion.schedule import Schedule, respaced_timesteps
from ..pictures.fitting import Picture, fit_mask, fit_picture
from .run import Settings


def start_at(
    settings: Settings, schedule: ScheduleConfig, strength: float | None, has_image: bool, inverted: bool
) -> Settings:
    """The settings with as many steps, spread from the noise level `strength` (0..1 of the training timesteps) down.

    None is 1, pure noise. Raises ValueError for a strength that is out of range or has nothing to work on.
    """
    who = settings.who
    if strength is None:
        return settings
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0.0 < strength <= 1.0:
        raise ValueError(
            f"{who}: strength must be above 0 (keep the image) and at most 1 (start from noise), got {strength!r}"
        )
    if strength == 1.0:
        return settings
    if not has_image:
        raise ValueError(f"{who}: strength {strength} needs an image to start from; link one, or set strength to 1")
    if inverted:
        raise ValueError(
            f"{who}: strength {strength} does not go with an inverted x_T, which starts at a level of its own; set "
            "strength to 1, or unlink the noise"
        )
    levels = round(strength * (schedule.timesteps - 1)) + 1
    timesteps = respaced_timesteps(levels, min(len(settings.steps), levels))
    return replace(settings, steps=Schedule(schedule).steps_through(timesteps))


def bring_picture(
    who: str,
    image: Tensor | None,
    mask: Tensor | None,
    side: int,
    crop: str | None,
    strength: float | None,
    warn: Callable[[str], None],
) -> Picture | None:
    """Image and mask as the decoder reads them; None without an image. Raises ValueError for a mask without one."""
    if image is None:
        if mask is not None:
            raise ValueError(f"{who}: a mask needs the image that it belongs to; link one, or unlink the mask")
        return None
    crop = "center" if crop is None else crop
    x = fit_picture(who, image, side, crop)
    if mask is None:
        if strength in (None, 1.0):
            warn(f"{who}: at strength 1 without a mask the image has no effect; lower strength, or link a mask")
        return Picture(x)
    return Picture(x, fit_mask(who, mask, tuple(image.shape[1:3]), side, crop, warn=warn))
