"""What a stack's upsamplers do to a render, in numbers, which are kept under the code of this file and of all that it
measures by."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..pictures.likeness import psnr
from ..stages import Decoder
from ..storybook.draw import render
from ..storybook.scenes import Scene
from ..training.passing import pass_through
from ..types import Embedding, TextEncoding
from .pixels import overshoot
from .storybook import bicubic


def drawn_large(scene: Scene) -> Tensor:
    """A scene's render, IMAGE (1, 1024, 1024, 3)."""
    return torch.from_numpy(render(scene, 1024, oversample=2).copy()).float()[None] / 255


def shrunk(picture: Tensor, size: int) -> Tensor:
    """IMAGE averaged down to `size` px."""
    return F.avg_pool2d(picture.movedim(-1, 1), picture.shape[1] // size).movedim(1, -1)


def enlargement_scores(
    large: Tensor,
    decoder: Decoder,
    embed: Embedding,
    text: TextEncoding,
    enlarged: Callable[[Tensor, int], Tensor],
    *,
    seed: int,
) -> dict[str, float]:
    """Of a render and of what the decoder makes of it (`pass_through`): PSNR of the enlarged picture, and its gain over
    bicubic enlargement, in dB. Of the render: halos of the enlarged and of the bicubic picture, in levels of 255.

    large: the render, IMAGE (1, 1024, 1024, 3). embed, text: what it shows. enlarged: `enlarged(IMAGE, size)` by the
    upsampler of that size.
    """
    true = {1024: large, 256: shrunk(large, 256), 64: shrunk(large, 64)}
    passed = {64: pass_through(decoder, true[64], embed, text, seed=seed)}
    passed[256] = enlarged(passed[64], 256)
    passed[1024] = enlarged(passed[256], 1024)
    clean = {256: enlarged(true[64], 256), 1024: enlarged(true[256], 1024)}
    found = {}
    for size in (256, 1024):
        for name, made, low in (("passed", passed, passed[64]), ("clean", clean, true[size // 4])):
            quality = psnr(made[size], true[size])
            found |= {f"{name} {size} gain": quality - psnr(bicubic(low, size), true[size]), f"{name} {size}": quality}
        found[f"halo {size}"] = overshoot(clean[size], true[size], 4)[0]
        found[f"bicubic halo {size}"] = overshoot(bicubic(true[size // 4], size), true[size], 4)[0]
    return found
