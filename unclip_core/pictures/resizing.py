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
