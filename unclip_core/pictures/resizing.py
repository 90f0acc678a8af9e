"""Resizing pictures, in one way everywhere: in training, for upsamplers' inputs and for the pictures people bring."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize_bicubic(x: Tensor, size: int | tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, C, *size) float32, bicubic, antialiased, align_corners False. size: (height, width), or the
    side of a square.

    Always in float32: PyTorch has no antialiased bicubic in half precision on CPUs.
    """
    x, size = x.float(), (size, size) if isinstance(size, int) else size
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True)


def resize_for_gradient(x: Tensor, size: tuple[int, int]) -> Tensor:
    """`resize_bicubic` of x (B, C, H, W) float32 where its gradient can be computed; on MPS, which cannot, bilinear."""
    if x.shape[-2:] == size:
        return x
    if x.device.type == "mps":
        return resize_bilinear(x, size)
    return F.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True)


def thin_for_gradient(x: Tensor, size: tuple[int, int]) -> Tensor:
    """x (B, C, H, W) brought to a smaller size by the means of areas; on MPS, whose areas must be of whole pixels,
    bilinear."""
    return resize_bilinear(x, size) if x.device.type == "mps" else F.interpolate(x, size, mode="area")


def resize_bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """x (B, C, H, W) -> (B, C, *size), of operations with gradients on every device: what is more than halved is first
    thinned by the means of as many whole pixels as fit."""
    whole = tuple(max(1, have // want) for have, want in zip(x.shape[-2:], size, strict=True))
    x = F.avg_pool2d(x, whole) if max(whole) > 1 else x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)
