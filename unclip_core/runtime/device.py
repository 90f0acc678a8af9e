"""Which device, which dtype and which memory layout a stack's networks run in."""

from __future__ import annotations

import torch

from ..models.integers import why_no_integers
from ..processor import computes_fast_in_bf16, this_processor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
INTEGERS = "int8"  # a stack's setting too, but none to train or to store in


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


def pick_dtype(setting: str | torch.dtype, device: torch.device | str) -> torch.dtype:
    """The weights' dtype for a loader's setting "auto", INTEGERS or one of DTYPES on `device`.

    auto: on a processor bfloat16 where that is the faster one, else float32; on a GPU bfloat16 where it computes in
    it, else float16. Never int8. Raises ValueError for another setting, and for int8 where nothing computes in it.
    """
    setting = torch.int8 if setting == INTEGERS else DTYPES.get(setting, setting)
    if setting == torch.int8 and (lacks := why_no_integers(torch.device(device))):
        raise ValueError(f"Load unCLIP: dtype int8 {lacks}; choose auto")
    if isinstance(setting, torch.dtype):
        return setting
    if setting != "auto":
        raise ValueError(f"dtype {setting!r} is unknown; choose one of auto, {', '.join(DTYPES)}, {INTEGERS}")
    kind = torch.device(device).type
    if kind == "cpu":
        return torch.bfloat16 if computes_fast_in_bf16(this_processor()) else torch.float32
    if kind == "cuda":
        return (
            torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) or torch.version.hip else torch.float16
        )
    return torch.bfloat16 if kind == "xpu" else torch.float16


def memory_format(device: torch.device | str) -> torch.memory_format:
    """The layout of feature maps that convolutions like best: channels-last, but on MPS, which has no such kernels."""
    return torch.contiguous_format if torch.device(device).type == "mps" else torch.channels_last
