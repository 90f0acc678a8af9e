"""How an upsampler's low-resolution input is spoilt in training, so that it mends what the stage before it makes.

"blur": SR3's Gaussian blur (kernel 3, sigma 0.6) for 64 -> 256. "bsr": blur, resize, noise and JPEG in shuffled order
after BSRGAN's recipe as LDM uses it, for 256 -> 1024 (App. C). A level in 0..1 scales the strength; networks that are
told the level learn both to trust a clean picture and to mend a bad one. Pictures are (N, 3, H, W) in -1..1.
"""

from __future__ import annotations

import io
import random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

BLUR_SIGMA = 0.6
BLUR_KERNEL = 3
NOISE_STD = 0.12  # at level 1, on the -1..1 scale


def gaussian_blur(pictures: Tensor, sigma: float, kernel: int = BLUR_KERNEL) -> Tensor:
    """Separable Gaussian blur with edges repeated. sigma in pixels; kernel odd."""
    if sigma <= 0:
        return pictures
    reach = kernel // 2
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float32) / sigma) ** 2)
    weights = (weights / weights.sum()).to(pictures)
    channels = pictures.shape[1]
    padded = F.pad(pictures, (reach,) * 4, mode="replicate")
    rows = F.conv2d(padded, weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(rows, weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def degrade(low: Tensor, kind: str, level: Tensor, rng: random.Random, generator: torch.Generator) -> Tensor:
    """Spoil `low` (N, 3, h, w), row by row at level (N,) in 0..1. kind: "none", "blur" or "bsr"."""
    if kind == "none":
        return low
    if kind not in ("blur", "bsr"):
        raise ValueError(f"augmentation {kind!r} is unknown; choose none, blur or bsr")
    spoil = _blur if kind == "blur" else _bsr
    rows = [spoil(row[None], float(strength), rng, generator) for row, strength in zip(low, level, strict=True)]
    return torch.cat(rows).clamp(-1, 1)


def _blur(low: Tensor, level: float, rng: random.Random, generator: torch.Generator) -> Tensor:
    blurred = gaussian_blur(low, BLUR_SIGMA * (0.5 + level) if rng.random() < 0.8 else 0.0)
    return _noise(blurred, NOISE_STD * level * rng.random(), generator)


def _noise(low: Tensor, std: float, generator: torch.Generator) -> Tensor:
    return low + std * torch.randn(low.shape, generator=generator)


def _bsr(low: Tensor, level: float, rng: random.Random, generator: torch.Generator) -> Tensor:
    steps = [
        lambda x: gaussian_blur(x, level * rng.uniform(0.2, 1.6), 7),
        lambda x: _resize_and_back(x, rng.uniform(1.0 - 0.5 * level, 1.0), rng),
        lambda x: _noise(x, NOISE_STD * level * rng.random(), generator),
        lambda x: _jpeg(x, round(95 - 45 * level * rng.random())),
    ]
    rng.shuffle(steps)
    for step in steps:
        if rng.random() < 0.8:
            low = step(low)
    return low


def _resize_and_back(low: Tensor, scale: float, rng: random.Random) -> Tensor:
    height, width = low.shape[-2:]
    smaller = (max(4, round(height * scale)), max(4, round(width * scale)))
    mode = rng.choice(("bilinear", "bicubic", "area"))
    options = {} if mode == "area" else {"align_corners": False, "antialias": True}
    small = F.interpolate(low, smaller, mode=mode, **options)
    return F.interpolate(small, (height, width), mode="bicubic", align_corners=False)


def _jpeg(low: Tensor, quality: int) -> Tensor:
    pixels = ((low[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(0, -1).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    back = np.asarray(Image.open(buffer), dtype=np.float32) / 127.5 - 1.0
    return torch.from_numpy(back).movedim(-1, 0)[None]
