"""Which device, which dtype and which memory layout a stack's networks run in."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from functools import cache

import torch
import torch.nn.functional as F

from ..models.integers import why_no_integers
from ..processor import computes_fast_in_bf16, this_processor
from .halves import NAMES, half_precisions, most_exact

DTYPES = {"fp32": torch.float32, **NAMES}
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


def pick_dtype(
    setting: str | torch.dtype, device: torch.device | str, halves: Collection[str] | None = None
) -> torch.dtype:
    """The weights' dtype for a loader's setting "auto", INTEGERS or one of DTYPES on `device`.

    auto: on a processor bfloat16 where that is the faster one, else float32; on an accelerator the most exact half
    precision that it computes fast, float32 without any. Never int8. halves: those that it computes fast; None asks the
    device. Raises ValueError for another setting, and for int8 where nothing computes in it.
    """
    setting = torch.int8 if setting == INTEGERS else DTYPES.get(setting, setting)
    if setting == torch.int8 and (lacks := why_no_integers(torch.device(device))):
        raise ValueError(f"Load unCLIP: dtype int8 {lacks}; choose auto")
    if isinstance(setting, torch.dtype):
        return setting
    if setting != "auto":
        raise ValueError(f"dtype {setting!r} is unknown; choose one of auto, {', '.join(DTYPES)}, {INTEGERS}")
    device = torch.device(device)
    if device.type == "cpu":
        return torch.bfloat16 if computes_fast_in_bf16(this_processor()) else torch.float32
    return most_exact(half_precisions(device) if halves is None else halves)


def overflow_advice(dtype: torch.dtype) -> str:
    """The end of a message about NaN or infinity from weights in `dtype`, with the fix."""
    fixes = {torch.float16: "load the model with dtype bf16 or fp32", torch.float32: "the weights may be damaged"}
    return f"in {str(dtype).removeprefix('torch.')}; {fixes.get(dtype, 'load the model with dtype fp32')}"


def memory_format(device: torch.device | str) -> torch.memory_format:
    """The one layout of feature maps from a network's first layer to its last: channels-last, which convolutions like
    best, where norms keep it.

    On CUDA PyTorch's GroupNorm takes and gives channels-last maps since 2.15; before, it copied them to contiguous
    ones, which the next convolution copied back, twice in every block. MPS has no channels-last convolutions.
    """
    device = torch.device(device)
    if device.type in ("cpu", "meta"):
        return torch.channels_last
    keeps = device.type != "mps" and _norms_keep_channels_last(device.type)
    return torch.channels_last if keeps else torch.contiguous_format


@cache
def _norms_keep_channels_last(kind: str) -> bool:
    """Asked of the installed PyTorch by a tiny map on the device."""
    with torch.no_grad():
        x = torch.zeros(1, 4, 2, 2, device=kind).contiguous(memory_format=torch.channels_last)
        return F.group_norm(x, 2).is_contiguous(memory_format=torch.channels_last)


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Products of float32 numbers in float32: no TF32, and no bfloat16 in its place, whatever the program around set.

    PyTorch lets cuDNN's convolutions use TF32, with a mantissa of 10 bits, unless told otherwise.
    """
    settings = [
        (owner, "fp32_precision", "ieee")
        for owner in (
            torch.backends.cuda.matmul,
            *(getattr(torch.backends.cudnn, name, None) for name in ("conv", "rnn")),
            *(getattr(torch.backends.mkldnn, name, None) for name in ("matmul", "conv")),
        )
        if hasattr(owner, "fp32_precision")
    ]
    if not settings:  # PyTorch before 2.9
        settings = [(torch.backends.cuda.matmul, "allow_tf32", False), (torch.backends.cudnn, "allow_tf32", False)]
    before = [getattr(owner, name) for owner, name, _ in settings]
    try:
        for owner, name, value in settings:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(settings, before, strict=True):
            setattr(owner, name, value)
