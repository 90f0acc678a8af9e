"""Which dtype a run computes in, found by timing its own network, and how it is applied."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..runtime.device import DTYPES

ADVANTAGE = 1.1  # half precision must be this many times as fast: float32 is the more exact
REPEATS = 2


def candidates(device: torch.device) -> tuple[str, ...]:
    """The dtypes that a device may train in: float32, and the half precision that it computes in, if any."""
    if device.type == "cuda":
        return ("fp32", "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) or torch.version.hip else "fp16")
    return ("fp32", "bf16") if device.type in ("cpu", "xpu") else ("fp32",)


def measure(device: torch.device, work: Callable[[], Tensor]) -> dict[str, float]:
    """Seconds of `work` (a forward pass that returns the loss) and its backward pass, in every candidate."""
    seconds = {}
    for name in candidates(device):
        times = []
        for _ in range(1 + REPEATS):  # the first also chooses kernels
            _synchronise(device)
            start = time.perf_counter()
            with computing(device, name):
                work().backward()
            _synchronise(device)
            times.append(time.perf_counter() - start)
        seconds[name] = min(times[1:])
    return seconds


def fastest(seconds: dict[str, float]) -> str:
    """float32, or the half precision that is clearly faster."""
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds["fp32"] > ADVANTAGE * seconds[best] else "fp32"


def checked(name: str, device: torch.device) -> str:
    """`name` if it is a dtype that a device trains in. Raises ValueError."""
    if name not in DTYPES:
        raise ValueError(f"--dtype {name!r} is unknown; choose one of auto, {', '.join(DTYPES)}")
    if name == "fp16" and device.type != "cuda":
        raise ValueError(f"--dtype fp16: training on {device.type} knows fp32 and bf16; fp16 needs a CUDA device")
    return name


@contextlib.contextmanager
def computing(device: torch.device, name: str) -> Iterator[None]:
    """Autocast to `name`; on the CPU attention as plain products, whose backward is twice as fast there as the fused
    one."""
    with contextlib.ExitStack() as stack:
        if name != "fp32":
            stack.enter_context(torch.autocast(device.type, DTYPES[name]))
        if device.type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
