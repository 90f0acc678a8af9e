"""Which networks lie in memory, and where: read on first use, brought to their device, sent away for others."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import nn

from ..models.kernels import freeze
from ..pages import give_back_pages
from .device import memory_format
from .estimates import does_not_fit, is_out_of_memory

log = logging.getLogger("comfyui_unclip")
# On a CPU, networks of this size and up are in memory one at a time; smaller ones stay.
LARGE_BYTES = 256 * 2**20
Module = TypeVar("Module", bound=nn.Module)


class Manager(Protocol):
    """Another program's memory manager, which decides what lies on the device beside its own models."""

    def adopt(self, module: nn.Module) -> object:
        """Take charge of a network that lies on the CPU; what it returns is kept as long as the network is."""

    def bring(self, adopted: Sequence[object], need: int) -> None:
        """Have all of these, as `adopt` returned them, on the device, and `need` bytes free for their forwards."""


class Placed(Generic[Module]):
    """A network that is read on first use and lies on its device only while it is the one in use.

    build: `build(dtype)` returns the module on the CPU, its weights read as that dtype from whatever the file has.
    Before a network comes to the device every other large one leaves it, for the CPU or, from the CPU, for the disk it
    came from: the largest stage sets the memory needed, not the sum. manager: replaces that rule by an editor's own.
    """

    def __init__(
        self,
        build: Callable[[torch.dtype], Module],
        device: torch.device,
        dtype: torch.dtype,
        manager: Manager | None = None,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self._build = build
        self._manager = manager
        self._adopted: object = None
        self._module: Module | None = None
        self._bytes = 0  # of the weights as they were read: packed ones are no parameters any more
        self._float32: Placed[Module] | None = None
        self._lock = threading.Lock()

    def on_device(self, *others: Placed, need: int = 0) -> Module:
        """The network on its device, in evaluation mode, without gradients.

        others: networks of the same run, loaded together with this one, each on its own device. need: bytes that their
        forwards will take. To be called once before a run starts: networks of other runs are evicted by it.
        """
        for other in others:
            if other.device != self.device:
                other.on_device()
        together = (self, *(other for other in others if other.device == self.device))
        # Nodes run under inference mode; weights made or moved there could never take part in a gradient.
        with torch.inference_mode(False):
            if self._manager is not None:
                for placed in together:
                    placed.read()
                self._manager.bring([placed._adopted for placed in together], need)
            elif self.device.type == "cpu":
                _take_memory(together)
            else:
                _take_device(together)
        return self.read()

    def read(self) -> Module:
        """The network where it lies; its weights are read, gigabytes of them, if they have not been."""
        with self._lock:
            if self._module is None:
                try:
                    with torch.inference_mode(False):
                        module = self._build_module()
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    raise MemoryError(does_not_fit("Load unCLIP", self.dtype, torch.device("cpu"))) from error
                if self._manager is not None:
                    self._adopted = self._manager.adopt(module)
                self._module = module
            return self._module

    def _build_module(self) -> Module:
        started = time.perf_counter()
        module = self._build(self.dtype).eval().requires_grad_(False)
        # Dtype and layout are settled on the CPU: moves copy nothing but the final weights.
        module = module.to(dtype=self.dtype, memory_format=memory_format(self.device))
        self._bytes = module_bytes(module)
        packs = self.device.type == "cpu" and self._manager is None
        if packs:
            freeze(module)
        log.info(
            "%s: %.1f M parameters, %.2f GB in %s for %s, opened in %.2f s, %d threads, %s",
            type(module).__name__,
            sum(parameter.numel() for parameter in module.parameters()) / 1e6,
            self._bytes / 1e9,
            str(self.dtype).removeprefix("torch."),
            self.device,
            time.perf_counter() - started,
            torch.get_num_threads(),
            "weights packed as they are used" if packs else "weights as they are",
        )
        return module

    def as_float32(self) -> Placed[Module]:
        """The same network in float32, as exact as its file, for what rounding would spoil; this object if it is."""
        if self.dtype == torch.float32:
            return self
        if self._float32 is None:
            self._float32 = Placed(self._build, self.device, torch.float32, self._manager)
        return self._float32

    @property
    def loaded(self) -> bool:
        """Whether the weights have been read."""
        return self._module is not None

    def offload(self) -> None:
        """Bring the weights back to the CPU."""
        if self._module is not None:
            self._module.to("cpu")
        _set_current(self.device, [placed for placed in _current(self.device) if placed is not self])

    def unload(self) -> None:
        """Forget the weights; the next use reads them again."""
        self.offload()
        self._module = self._adopted = None
        if self._float32 is not None:
            self._float32.unload()


def module_bytes(module: nn.Module) -> int:
    """Size of a network's parameters."""
    return sum(parameter.numel() * parameter.itemsize for parameter in module.parameters())


_on_device: dict[torch.device, list[weakref.ref[Placed]]] = {}  # weak: a stack that is dropped must free its memory


def _current(device: torch.device) -> list[Placed]:
    """The networks that were brought to `device` last and still exist."""
    found = (reference() for reference in _on_device.get(device, ()))
    return [placed for placed in found if placed is not None]


def _set_current(device: torch.device, placed: Sequence[Placed]) -> None:
    _on_device[device] = [weakref.ref(each) for each in placed]


def _take_memory(together: Sequence[Placed]) -> None:
    """Read those of `together` that are not in memory; large networks that are none of them leave it for that."""
    device = together[0].device
    others = [placed for placed in _current(device) if placed not in together]
    if not all(placed.loaded for placed in together):  # before the weights are read, not after: both would be in memory
        for other in others:
            other.unload()
        if others:
            give_back_pages()
        others = []
    for placed in together:
        placed.read()
    large = [placed for placed in together if placed._bytes >= LARGE_BYTES]
    _set_current(device, others + large)


def _take_device(together: Sequence[Placed]) -> None:
    """Make `together` the only networks on their device."""
    device, current = together[0].device, _current(together[0].device)
    for other in current:
        if other not in together:
            other.offload()
    for placed in together:
        if placed not in current:
            placed.read().to(device)
    _set_current(device, together)
