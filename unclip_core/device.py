"""Where and in what precision stages run: device, dtype, memory format, and moving weights stage by stage."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import nn

from .memory import does_not_fit, is_out_of_memory
from .models.kernels import freeze

log = logging.getLogger("comfyui_unclip")
# On a CPU, networks of this size and up are in memory one at a time; smaller ones stay.
LARGE_BYTES = 256 * 2**20
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Module = TypeVar("Module", bound=nn.Module)


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
    """The weights' dtype for a loader's setting "auto", "fp32", "bf16" or "fp16" on `device`.

    auto: bfloat16 where the processor computes in it, else float16 on a GPU, else float32. Raises ValueError for
    another setting.
    """
    if isinstance(setting, torch.dtype):
        return setting
    if setting in DTYPES:
        return DTYPES[setting]
    if setting != "auto":
        raise ValueError(f"dtype {setting!r} is unknown; choose one of auto, {', '.join(DTYPES)}")
    kind = torch.device(device).type
    if kind == "cpu":
        return torch.bfloat16 if cpu_has_bf16() else torch.float32
    if kind == "cuda":
        return (
            torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) or torch.version.hip else torch.float16
        )
    return torch.bfloat16 if kind == "xpu" else torch.float16


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware (AMX or AVX-512 BF16)."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(check is not None and check() for check in checks)


def memory_format(device: torch.device | str) -> torch.memory_format:
    """The layout of feature maps that convolutions like best: channels-last, but on MPS, which has no such kernels."""
    return torch.contiguous_format if torch.device(device).type == "mps" else torch.channels_last


def place(module: Module, device: torch.device | str, dtype: torch.dtype) -> Module:
    """Move a network to where and how it runs. Four-dimensional weights take the device's memory format."""
    return module.to(device=device, dtype=dtype, memory_format=memory_format(device))


class Placed(Generic[Module]):
    """A network that is built on first use and lives on its device only while it is the one in use.

    `build()` returns the module on the CPU. Calling the object returns it in place; every other large Placed network of
    that device leaves first, for the CPU or, from the CPU, for the disk it came from, so that the largest stage sets
    the memory needed, not the sum. `on_place` replaces that rule: it is called with the module and must bring it to
    the device (an editor's memory manager).
    """

    def __init__(
        self,
        build: Callable[[], Module],
        device: torch.device,
        dtype: torch.dtype,
        on_place: Callable[[Module], None] | None = None,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self._build = build
        self._on_place = on_place
        self._module: Module | None = None
        self._float32: Placed[Module] | None = None
        self._lock = threading.Lock()

    def __call__(self) -> Module:
        """The module, on its device, in evaluation mode, without gradients."""
        if self._on_place is None and self.device.type == "cpu" and self._module is None:
            _leave(self)  # before the weights are read, not after: both would be in memory together
        with self._lock:
            if self._module is None:
                try:
                    self._module = self._read()
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    raise MemoryError(does_not_fit("Load unCLIP", self.dtype)) from error
            module = self._module
        if self._on_place is not None:
            self._on_place(module)
        elif self.device.type != "cpu":
            _take_device(self)
        elif module_bytes(module) >= LARGE_BYTES:
            _on_device[self.device] = weakref.ref(self)
        return module

    def _read(self) -> Module:
        started = time.perf_counter()
        module = self._build().eval().requires_grad_(False)
        # Dtype and layout are settled on the CPU: moves copy nothing but the final weights.
        module = module.to(dtype=self.dtype, memory_format=memory_format(self.device))
        if self.device.type == "cpu" and self._on_place is None:
            freeze(module)
        log.info(
            "%s: %.1f M parameters, %.2f GB in %s for %s, opened in %.2f s, %d threads",
            type(module).__name__,
            sum(parameter.numel() for parameter in module.parameters()) / 1e6,
            module_bytes(module) / 1e9,
            str(self.dtype).removeprefix("torch."),
            self.device,
            time.perf_counter() - started,
            torch.get_num_threads(),
        )
        return module

    def as_float32(self) -> Placed[Module]:
        """The same network in float32, for what rounding would spoil; this very object where it already is."""
        if self.dtype == torch.float32:
            return self
        if self._float32 is None:
            self._float32 = Placed(self._build, self.device, torch.float32, self._on_place)
        return self._float32

    @property
    def loaded(self) -> bool:
        """Whether the weights have been read."""
        return self._module is not None

    def offload(self) -> None:
        """Bring the weights back to the CPU."""
        if self._module is not None:
            self._module.to("cpu")
        if _current(self.device) is self:
            del _on_device[self.device]

    def unload(self) -> None:
        """Forget the weights; the next use reads them again."""
        self.offload()
        self._module = None
        if self._float32 is not None:
            self._float32.unload()


def module_bytes(module: nn.Module) -> int:
    """Size of a network's parameters."""
    return sum(parameter.numel() * parameter.itemsize for parameter in module.parameters())


_on_device: dict[torch.device, weakref.ref[Placed]] = {}  # weak: a stack that is dropped must free its memory


def _current(device: torch.device) -> Placed | None:
    reference = _on_device.get(device)
    return reference() if reference is not None else None


def _leave(placed: Placed) -> None:
    """Make the large network that is in memory, if it is another, leave it."""
    current = _current(placed.device)
    if current is not None and current is not placed:
        current.unload()


def _take_device(placed: Placed) -> None:
    """Make `placed` the only network on its device."""
    current = _current(placed.device)
    if current is placed:
        return
    if current is not None:
        current.offload()
    placed._module.to(placed.device)
    _on_device[placed.device] = weakref.ref(placed)
