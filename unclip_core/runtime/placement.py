"""Networks that are read on first use, moved to their device for a run, and evicted when another one needs the room."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import nn

from ..models.integers import integer_bytes
from ..models.kernels import freeze
from ..pages import give_back_pages
from .compiling import check_compiler, compile_steps
from .device import memory_format
from .estimates import does_not_fit, is_out_of_memory

log = logging.getLogger("comfyui_unclip")
# On a CPU, networks of this size and up are in memory one at a time; smaller ones stay.
LARGE_BYTES = 256 * 2**20
Module = TypeVar("Module", bound=nn.Module)


class Manager(Protocol):
    """An editor's memory manager, which decides which models are on the device: ours and its own."""

    def adopt(self, module: nn.Module) -> object:
        """Register a network that is on the CPU. Returns the manager's handle of it, kept as long as the network."""

    def bring(self, adopted: Sequence[object], need: int) -> None:
        """Load the networks of these handles onto the device together, with `need` bytes left for their forwards."""


class Placed(Generic[Module]):
    """A network that is read on first use, and is on its device only while it is the one in use.

    build: `build(dtype)` returns the module on the CPU, its weights read as that dtype from whatever the file has.
    Loading a network evicts every other large one: from an accelerator to the CPU, from the CPU altogether (it is read
    from its file again). So the largest stage sets the memory needed, not the sum of all. manager: an editor's, which
    then decides instead. packs: whether a processor may rearrange the weights, which gradients then no longer pass.
    compiles: whether a step of the network is compiled (`compile_steps`), which leaves the weights as they are; its
    float32 and unpacked twins, which are there for exactness and gradients, never are.

    dtype torch.int8: `build` then gives a network whose convolutions and linear layers are in integers (models/
    integers.py). What is around them computes in float32, which is `dtype` then; `weights` is what was asked for.
    """

    def __init__(
        self,
        build: Callable[[torch.dtype], Module],
        device: torch.device,
        dtype: torch.dtype,
        manager: Manager | None = None,
        *,
        packs: bool = True,
        compiles: bool = False,
    ) -> None:
        self.device = device
        self.weights = dtype
        self.dtype = torch.float32 if dtype == torch.int8 else dtype
        self._build = build
        self._manager = manager
        self._packs = packs and device.type == "cpu" and manager is None and not compiles
        self._compiles = compiles
        self._adopted: object = None
        self._module: Module | None = None
        self._bytes = 0  # of the weights as they were read: packed ones are no parameters any more
        self._float32: Placed[Module] | None = None
        self._unpacked: Placed[Module] | None = None
        self._lock = threading.Lock()

    def on_device(self, *others: Placed, need: int = 0) -> Module:
        """The network on its device, in evaluation mode, without gradients.

        others: networks of the same run, loaded together with this one, each on its own device. need: bytes that their
        forwards will take. To be called once before a run starts: networks of other runs are evicted by it.
        """
        for other in others:
            if other.device != self.device:
                other.on_device()
        networks = (self, *(other for other in others if other.device == self.device))
        # Nodes run under inference mode; weights made or moved there could never take part in a gradient.
        with torch.inference_mode(False):
            if self._manager is not None:
                for placed in networks:
                    placed.read()
                self._manager.bring([placed._adopted for placed in networks], need)
            elif self.device.type == "cpu":
                _load_on_cpu(networks)
            else:
                _load_on_accelerator(networks)
        return self.read()

    def read(self) -> Module:
        """The network, on whatever device it is. Reads its weights, up to gigabytes, if they are not in memory."""
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
        if self._compiles:
            check_compiler(self.device)
        started = time.perf_counter()
        module = self._build(self.weights).eval().requires_grad_(False)
        # Converted on the CPU, so that moving to the device copies nothing but the final weights.
        module = module.to(dtype=self.dtype, memory_format=memory_format(self.device))
        self._bytes = module_bytes(module)
        if self._packs:
            freeze(module)
        if self._compiles:
            compile_steps(module)
        log.info(
            "%s: %.1f M parameters, %.2f GB in %s for %s, opened in %.2f s, %d threads, %s",
            type(module).__name__,
            (sum(parameter.numel() for parameter in module.parameters()) + integer_bytes(module)) / 1e6,
            self._bytes / 1e9,
            str(self.weights).removeprefix("torch."),
            self.device,
            time.perf_counter() - started,
            torch.get_num_threads(),
            "weights packed as they are used" if self._packs else "weights as they are",
        )
        return module

    def as_float32(self) -> Placed[Module]:
        """The same network in float32, as exact as its file, for what rounding would spoil; this object if it is."""
        if self.weights == torch.float32:
            return self
        if self._float32 is None:
            self._float32 = Placed(self._build, self.device, torch.float32, self._manager)
        return self._float32

    def unpacked(self) -> Placed[Module]:
        """The same network with its weights as they are, through which gradients pass; this object where none is ever
        packed."""
        if not self._packs:
            return self
        if self._unpacked is None:
            self._unpacked = Placed(self._build, self.device, self.dtype, packs=False)
        return self._unpacked

    def __deepcopy__(self, memo: dict) -> Placed[Module]:
        """This very object: other programs may copy handles, but there is one network on one device."""
        return self

    @property
    def loaded(self) -> bool:
        """Whether the weights have been read."""
        return self._module is not None

    @property
    def weight_bytes(self) -> int:
        """Size of the weights, as they were read; 0 before that."""
        return self._bytes

    def offload(self) -> None:
        """Move the weights to the CPU."""
        if self._module is not None:
            self._module.to("cpu")
        _set_current(self.device, [placed for placed in _current(self.device) if placed is not self])

    def unload(self) -> None:
        """Drop the weights from memory; the next use reads them again."""
        self.offload()
        self._module = self._adopted = None
        for twin in (self._float32, self._unpacked):
            if twin is not None:
                twin.unload()


def module_bytes(module: nn.Module) -> int:
    """Size of a network's parameters, those that are integers among them."""
    return sum(parameter.numel() * parameter.itemsize for parameter in module.parameters()) + integer_bytes(module)


_on_device: dict[torch.device, list[weakref.ref[Placed]]] = {}  # weak: a stack that is dropped must free its memory


def _current(device: torch.device) -> list[Placed]:
    """The networks that were loaded onto `device` last and still exist."""
    found = (reference() for reference in _on_device.get(device, ()))
    return [placed for placed in found if placed is not None]


def _set_current(device: torch.device, placed: Sequence[Placed]) -> None:
    _on_device[device] = [weakref.ref(each) for each in placed]


def _load_on_cpu(networks: Sequence[Placed]) -> None:
    """Read those of `networks` that are not in memory, after all other large ones were dropped from it."""
    device = networks[0].device
    others = [placed for placed in _current(device) if placed not in networks]
    if not all(placed.loaded for placed in networks):  # before the weights are read, not after: both would be in memory
        for other in others:
            other.unload()
        if others:
            give_back_pages()
        others = []
    for placed in networks:
        placed.read()
    large = [placed for placed in networks if placed._bytes >= LARGE_BYTES]
    _set_current(device, others + large)


def _load_on_accelerator(networks: Sequence[Placed]) -> None:
    """Move `networks` to their device, after all others were moved from it to the CPU."""
    device, current = networks[0].device, _current(networks[0].device)
    for other in current:
        if other not in networks:
            other.offload()
    for placed in networks:
        if placed not in current:
            placed.read().to(device)
    _set_current(device, networks)
