"""Where a decoder's run begins: a Noise recipe turned into x_T on the decoder's own grid.

Image to image and inpainting are extensions: §2 of the paper has neither (replacement after GLIDE, Nichol et al. 2021,
and RePaint, Lugmayr et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import is_number
from ..config import ScheduleConfig
from ..diffusion.denoiser import Edit, keep_known
from ..diffusion.samplers import MULTISTEP
from ..diffusion.schedule import Schedule, respaced_timesteps
from ..embeddings import draw_x_T
from ..pictures.fitting import Picture
from ..types import GivenNoise, Inversion, Noise, PictureStart, expand_rows, repeat_rows
from .grid import Grid
from .run import Settings


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    x_T: (B, C, h, w) float32, None to draw it from the run's seed. inversion: how x_T was made, if by inversion.
    picture: what to start from or repaint, with its mask. strength: the noise level to start from, 0..1. Once the start
    is `on_grid`, known: the picture's x_0 (B, C, h, w); mask: (B, 1, h, w), how much of it is painted, None for all.
    """

    x_T: Tensor | None = None
    inversion: Inversion | None = None
    picture: Picture | None = None
    strength: float = 1.0
    known: Tensor | None = None
    mask: Tensor | None = None

    def sizes(self) -> dict[str, int]:
        """Batch sizes by input name."""
        sizes = {} if self.x_T is None else {"noise": len(self.x_T)}
        return sizes if self.picture is None else sizes | self.picture.sizes()

    def repeat(self, count: int) -> Start:
        """Every item `count` times in a row."""
        x_T, known, mask = repeat_rows(count, self.x_T, self.known, self.mask)
        picture = self.picture
        if picture is not None:
            picture = Picture(*repeat_rows(count, picture.x, picture.mask))
        return replace(self, x_T=x_T, picture=picture, known=known, mask=mask)

    def on_grid(self, grid: Grid, *, inpaint: bool = False) -> Start:
        """With the picture on the run's grid. To be called before the decoder's network is loaded: an autoencoder may
        take its place. inpaint: for an inpaint decoder, which is told a mask of 0 and 1 (`inpaint_mask`)."""
        if self.picture is None:
            return self
        mask = self.picture.mask
        if mask is not None:
            mask = inpaint_mask(grid.mask((mask >= 0.5).float())) if inpaint else grid.mask(mask)
        return replace(self, known=grid.encode(self.picture.x), mask=mask)

    def begin(self, drawn: Tensor, settings: Settings, rows: slice, batch: int) -> tuple[Tensor, Edit | None]:
        """(x_t to start at, what puts the known pixels into x_0) for the given rows of `batch`.

        drawn: (B, C, h, w), the run's own noise for these rows, on its device."""
        x_t = drawn if self.x_T is None else expand_rows(self.x_T, batch)[rows].float().to(drawn.device)
        if self.known is None:
            return x_t, None
        known, mask = self.rows(rows, batch, drawn.device)
        if self.inversion is None:
            first = settings.steps[0]
            x_t = first.alpha * known + first.sigma * x_t
        return x_t, None if mask is None else keep_known(known, mask)

    def rows(self, rows: slice, batch: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """(known, mask) of the given rows of `batch`."""
        known, mask = (
            None if part is None else expand_rows(part, batch)[rows].to(device) for part in (self.known, self.mask)
        )
        return known, mask


def inpaint_mask(mask: Tensor) -> Tensor:
    """(B, 1, h, w) of 0 and 1, 1 = repaint, grown by a pixel, as Kandinsky's inpaint networks were trained: latents
    beside the mask hold something of what is under it."""
    # Its authors left two of the eight neighbours out.
    grown = mask.new_tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]])
    return (F.conv2d(mask, grown[None, None], padding=1) > 0).to(mask.dtype)


def resolve_start(who: str, noise: Noise | None, grid: Grid, warn: Callable[[str], None]) -> Start:
    """The start that a recipe makes on the grid of a run.

    Raises ValueError for what is no Noise, a strength out of range, or a picture or mask of the wrong shape.
    """
    if noise is None:
        return Start()
    if isinstance(noise, PictureStart):
        base = resolve_start(who, noise.noise, grid, warn)
        if noise.mask is None and noise.strength == 1.0:
            warn(f"{who}: at strength 1 without a mask the image has no effect; lower strength, or link a mask")
        return replace(base, picture=grid.fit_start(noise, warn), strength=_strength(who, noise, base))
    return Start(draw_x_T(noise, grid.shape), noise.inversion if isinstance(noise, GivenNoise) else None)


def given_x_T(who: str, noise: Noise | None) -> Tensor | None:
    """The x_T that a recipe brings along, whose size is the run's; None where it is still to be drawn.

    Raises ValueError for what is no Noise, and for a picture over a picture.
    """
    if noise is not None and not isinstance(noise, Noise):
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
        return given_x_T(who, noise.noise)
    return noise.x_T if isinstance(noise, GivenNoise) else None


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
    if not is_number(strength) or not 0.0 < strength <= 1.0:
        raise ValueError(
            f"{who}: strength must be above 0 (keep the {kept}) and at most 1 (start from noise), got {strength!r}"
        )
    return float(strength)


def steps_from(settings: Settings, schedule: ScheduleConfig, strength: float) -> Settings:
    """The settings with as many steps, spread from the noise level `strength` (0..1 of the training timesteps) down."""
    if strength == 1.0:
        return settings
    levels = round(strength * (schedule.timesteps - 1)) + 1
    count = min(len(settings.steps), levels)
    timesteps = respaced_timesteps(levels, count, ends_early=settings.sampler in MULTISTEP)
    return replace(settings, steps=Schedule(schedule).steps_through(timesteps))
