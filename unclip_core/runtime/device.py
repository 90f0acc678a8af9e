"""Which device, which dtype and which memory layout a stack's networks run in."""

from __future__ import annotations

from collections.abc import Collection

import torch

from ..processor import computes_fast_in_bf16, this_processor
from .halves import half_precisions, most_exact

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(device: torch.device | str | None = None) -> torch.device:
    """`device` if given, else the best there is: CUDA (ROCm too), Intel XPU, Apple's MPS, CPU."""
    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return torch.device("xpu")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def pick_dtype(
    setting: str | torch.dtype, device: torch.device | str, halves: Collection[str] | None = None
) -> torch.dtype:
    """The weights' dtype for a loader's setting "auto", "fp32", "bf16" or "fp16" on `device`.

    auto: on a processor bfloat16 where that is the faster one, else float32; on an accelerator the most exact half
    precision that it computes fast, float32 without any. halves: those that it computes fast; None asks the device.
    Raises ValueError for another setting.
    """
    if isinstance(setting, torch.dtype):
        return setting
    if setting in DTYPES:
        return DTYPES[setting]
    if setting != "auto":
        raise ValueError(f"dtype {setting!r} is unknown; choose one of auto, {', '.join(DTYPES)}")
    device = torch.device(device)
    if device.type == "cpu":
        return torch.bfloat16 if computes_fast_in_bf16(this_processor()) else torch.float32
    return most_exact(half_precisions(device) if halves is None else halves)


def memory_format(device: torch.device | str) -> torch.memory_format:
    """The layout of feature maps that convolutions like best: channels-last, but on MPS, which has no such kernels."""
    return torch.contiguous_format if torch.device(device).type == "mps" else torch.channels_last
