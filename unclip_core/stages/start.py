"""Where a decoder's run begins: a Noise recipe turned into x_T on the decoder's own grid.

Image to image and inpainting are extensions: §2 of the paper has neither (replacement after GLIDE, Nichol et al. 2021,
and RePaint, Lugmayr et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from ..config import ScheduleConfig
from ..diffusion.denoiser import Edit, keep_known
from ..diffusion.schedule import Schedule, respaced_timesteps
from ..embeddings import draw_x_T
from ..pictures.fitting import Picture, fit_mask, fit_picture
from ..types import GivenNoise, Inversion, Noise, PictureStart, expand_rows, repeat_rows
from .run import Settings


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    x_T: (B, C, S, S) float32, None to draw it from the run's seed. inversion: how x_T was made, if by inversion.
    picture: what to start from or repaint, with its mask. strength: the noise level to start from, 0..1.
    """

    x_T: Tensor | None = None
    inversion: Inversion | None = None
    picture: Picture | None = None
    strength: float = 1.0

    def sizes(self) -> dict[str, int]:
        """Batch sizes by input name."""
        sizes = {} if self.x_T is None else {"noise": len(self.x_T)}
        return sizes if self.picture is None else sizes | self.picture.sizes()

    def repeat(self, count: int) -> Start:
        """Every item `count` times in a row."""
        (x_T,) = repeat_rows(count, self.x_T)
        picture = self.picture
        if picture is not None:
            picture = Picture(*repeat_rows(count, picture.x, picture.mask))
        return replace(self, x_T=x_T, picture=picture)

    def begin(self, drawn: Tensor, settings: Settings, rows: slice, batch: int) -> tuple[Tensor, list[Edit]]:
        """(x_t to start at, edits of x_0) for the given rows of `batch`, on the device of `drawn` (B, C, S, S): the
        run's own noise for these rows."""
        x_t = drawn if self.x_T is None else expand_rows(self.x_T, batch)[rows].float().to(drawn.device)
        if self.picture is None:
            return x_t, []
        known, mask = (None if part is None else part.to(drawn.device) for part in self.picture.rows(rows, batch))
        if self.inversion is None:
            first = settings.steps[0]
            x_t = first.alpha * known + first.sigma * x_t
        return x_t, [] if mask is None else [keep_known(known, mask)]


def resolve_start(who: str, noise: Noise | None, channels: int, side: int, warn: Callable[[str], None]) -> Start:
    """The start that a recipe makes on a grid of `channels` and `side` x `side` pixels.

    Raises ValueError for what is no Noise, for an x_T of another grid, a strength out of range, or a picture or mask of
    the wrong shape.
    """
    if noise is None:
        return Start()
    if not isinstance(noise, Noise):
        raise ValueError(
            f"{who}: noise must be a start noise, got {type(noise).__name__}; link Random Noise, DDIM Invert, Slerp "
            "Noise or Start From Picture"
        )
    if isinstance(noise, PictureStart):
        if isinstance(noise.noise, PictureStart):
            raise ValueError(
                f"{who}: a picture to start from lies over another; link one Start From Picture, and to its "
                "noise Random Noise, DDIM Invert or Slerp Noise"
            )
        base = resolve_start(who, noise.noise, channels, side, warn)
        return replace(base, picture=_read_picture(who, noise, side, warn), strength=_strength(who, noise, base))
    shape = (channels, side, side)
    inversion = None
    if isinstance(noise, GivenNoise):
        inversion = noise.inversion
        if tuple(noise.x_T.shape[1:]) != shape:
            raise ValueError(
                f"{who}: noise must be {side} x {side} with {channels} channels for this decoder, got "
                f"{tuple(noise.x_T.shape[2:])} with {noise.x_T.shape[1]}; invert the picture with the decoder that "
                "paints it"
            )
    return Start(draw_x_T(noise, shape), inversion)


def _strength(who: str, noise: PictureStart, base: Start) -> float:
    strength = check_strength(who, noise.strength, "image")
    if strength < 1.0 and base.inversion is not None:
        raise ValueError(
            f"{who}: strength {strength} does not go with an inverted x_T, which starts at a level of its own; set "
            "strength to 1, or unlink the noise"
        )
    return strength


def check_strength(who: str, strength: float, kept: str) -> float:
    """The noise level to start from, above 0 (`kept` is) to 1, as a float. Raises ValueError for anything else."""
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0.0 < strength <= 1.0:
        raise ValueError(
            f"{who}: strength must be above 0 (keep the {kept}) and at most 1 (start from noise), got {strength!r}"
        )
    return float(strength)


def _read_picture(who: str, noise: PictureStart, side: int, warn: Callable[[str], None]) -> Picture:
    x = fit_picture(who, noise.image, side, noise.crop)
    if noise.mask is None:
        if noise.strength == 1.0:
            warn(f"{who}: at strength 1 without a mask the image has no effect; lower strength, or link a mask")
        return Picture(x)
    return Picture(x, fit_mask(who, noise.mask, tuple(noise.image.shape[1:3]), side, noise.crop, warn=warn))


def steps_from(settings: Settings, schedule: ScheduleConfig, strength: float) -> Settings:
    """The settings with as many steps, spread from the noise level `strength` (0..1 of the training timesteps) down."""
    if strength == 1.0:
        return settings
    levels = round(strength * (schedule.timesteps - 1)) + 1
    timesteps = respaced_timesteps(levels, min(len(settings.steps), levels))
    return replace(settings, steps=Schedule(schedule).steps_through(timesteps))
