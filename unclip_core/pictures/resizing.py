"""Resizing pictures, in one way everywhere: in training, for upsamplers' inputs and for the pictures people bring."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize_bicubic(x: Tensor, size: int) -> Tensor:
    """(B, C, H, W) -> (B, C, size, size) float32, bicubic, antialiased, align_corners False.

    Always in float32: PyTorch has no antialiased bicubic in half precision on CPUs.
    """
    x = x.float()
    if x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="bicubic", align_corners=False, antialias=True)
