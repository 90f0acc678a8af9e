"""How an upsampler's low-resolution input is spoilt in training, so that it mends what the stage before it makes.

"blur", for 64 -> 256: SR3's Gaussian blur (kernel 3, sigma 0.6; App. C). "bsr", for 256 -> 1024: after BSRGAN (Zhang
et al. 2021, "Designing a Practical Degradation Model"), with its steps and numbers of our own: two blurs, isotropic or
not, two steps of shrinking by filters drawn at random, noise and JPEG, in shuffled order. It differs from what is
published in widths, shares and qualities, as docs/training-paper.md lists. A level in 0..1 scales the strength;
networks that are told the level learn both to trust a clean picture and to mend a bad one. Pictures are (N, 3, H, W) in
-1..1.
"""

from __future__ import annotations

import io
import math
import random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

BLUR_SIGMA = 0.6
BLUR_KERNEL = 3
BSR_SIGMAS = (0.2, 1.6)  # pixels of the small picture
BSR_SHARE = 0.8  # of the blurs, the noise and the JPEG, each
SEPARATED = 9  # pixels of a kernel, above which two passes are faster than one
JPEG_QUALITIES = (50, 95)


def gaussian_blur(pictures: Tensor, sigma: float, kernel: int = BLUR_KERNEL) -> Tensor:
    """Isotropic Gaussian blur with edges repeated. sigma in pixels; kernel odd."""
    return anisotropic_blur(pictures, sigma, sigma, 0.0, kernel) if sigma > 0 else pictures


def anisotropic_blur(pictures: Tensor, along: float, across: float, angle: float, kernel: int) -> Tensor:
    """Gaussian blur of deviations `along` the direction `angle` (radians from the x axis) and `across`, in pixels."""
    reach, channels = kernel // 2, pictures.shape[1]
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    padded = F.pad(pictures, (reach,) * 4, mode="replicate")
    if along == across and kernel > SEPARATED:  # the same in two passes
        row = torch.exp(-0.5 * (steps / along) ** 2)
        row = (row / row.sum()).to(pictures).expand(channels, 1, 1, kernel)
        return F.conv2d(F.conv2d(padded, row, groups=channels), row.transpose(2, 3), groups=channels)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    u = math.cos(angle) * x + math.sin(angle) * y
    v = math.cos(angle) * y - math.sin(angle) * x
    weights = torch.exp(-0.5 * ((u / along) ** 2 + (v / across) ** 2))
    weights = (weights / weights.sum()).to(pictures)
    return F.conv2d(padded, weights.expand(channels, 1, kernel, kernel), groups=channels)


def degrade(
    high: Tensor,
    factor: int,
    kind: str,
    level: Tensor | None,
    rng: random.Random,
    generator: torch.Generator,
    *,
    blur_share: float = 1.0,
    noise: float = 0.0,
) -> Tensor:
    """Small pictures (N, 3, H / factor, W / factor) of `high`, spoilt row by row. kind: "none", "blur" or "bsr".

    level: (N,) in 0..1; None for networks that are not told it: the paper's strength. blur_share: of the rows that
    "blur" blurs. noise: deviation of the noise at most, at level 1; the paper's blur has none.
    """
    if kind not in ("none", "blur", "bsr"):
        raise ValueError(f"augmentation {kind!r} is unknown; choose none, blur or bsr")
    if kind == "none":
        return F.avg_pool2d(high, factor)
    levels = [None] * len(high) if level is None else level.tolist()
    rows = []
    for row, strength in zip(high.split(1), levels, strict=True):
        if kind == "bsr":
            rows.append(_bsr(row, factor, 1.0 if strength is None else strength, noise, rng, generator))
            continue
        row = F.avg_pool2d(row, factor)
        if rng.random() < blur_share:
            row = gaussian_blur(row, BLUR_SIGMA * (1.0 if strength is None else 0.5 + strength))
        rows.append(_noise(row, noise * (1.0 if strength is None else strength) * rng.random(), rng, generator))
    return torch.cat(rows).clamp(-1, 1)


def _noise(x: Tensor, std: float, rng: random.Random, generator: torch.Generator) -> Tensor:
    """With Gaussian noise, of each colour by itself or of the brightness alone."""
    if std == 0:
        return x
    channels = 1 if rng.random() < 0.4 else x.shape[1]
    return x + std * torch.randn(1, channels, *x.shape[2:], generator=generator)


def _bsr(
    high: Tensor, factor: int, level: float, noise: float, rng: random.Random, generator: torch.Generator
) -> Tensor:
    size = tuple(side // factor for side in high.shape[2:])
    steps = ["blur", "blur", "shrink", "shrink", "noise", "jpeg"]
    rng.shuffle(steps)
    x, shrinks = high, 0
    for step in steps:
        if step == "shrink":
            shrinks += 1
            share = rng.random() * level if shrinks == 1 else 1.0  # of the way; the second goes to its end
            sides = tuple(round(now * (end / now) ** share) for now, end in zip(x.shape[2:], size, strict=True))
            x = _shrink(x, sides, rng)
        elif rng.random() >= BSR_SHARE:
            continue
        elif step == "blur":
            x = _any_blur(x, level * x.shape[3] / size[1], rng)
        elif step == "noise":
            x = _noise(x, noise * level * rng.random(), rng, generator)
        else:
            low, best = JPEG_QUALITIES
            x = _jpeg(x, round(best - (best - low) * level * rng.random()))
    return x


def _any_blur(x: Tensor, scale: float, rng: random.Random) -> Tensor:
    """A blur of random width, times `scale`, and in half of the cases another one in the other direction."""
    along = scale * rng.uniform(*BSR_SIGMAS)
    across = scale * rng.uniform(*BSR_SIGMAS) if rng.random() < 0.5 else along
    if min(along, across) < 1e-3:
        return x
    kernel = 2 * max(1, math.ceil(2.5 * max(along, across))) + 1
    return anisotropic_blur(x, along, across, rng.uniform(0, math.pi), kernel)


def _shrink(x: Tensor, sides: tuple[int, ...], rng: random.Random) -> Tensor:
    if sides == tuple(x.shape[2:]):
        return x
    mode = rng.choice(("bilinear", "bicubic", "area"))
    options = {} if mode == "area" else {"align_corners": False, "antialias": True}
    return F.interpolate(x, sides, mode=mode, **options)


def _jpeg(x: Tensor, quality: int) -> Tensor:
    pixels = ((x[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(0, -1).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    back = np.asarray(Image.open(buffer), dtype=np.float32) / 127.5 - 1.0
    return torch.from_numpy(back).movedim(-1, 0)[None]
