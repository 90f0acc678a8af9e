"""Networks that are read on first use, moved to their device for a run, and dropped when another one needs the room."""

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
from ..models.widened import widen_as_used, widened_bytes
from ..pages import give_back_pages
from .compiling import check_compiler, compile_steps
from .device import memory_format
from .estimates import Need, does_not_fit, free_bytes, is_out_of_memory
from .streamed import fetches_all, forget_fetched, stream

log = logging.getLogger("comfyui_unclip")
# On a CPU, networks of this size and up are in memory one at a time; smaller ones stay.
LARGE_BYTES = 256 * 2**20
WHOLE_DEVICE = 2**50  # bytes: more than any has
Module = TypeVar("Module", bound=nn.Module)


class Manager(Protocol):
    """An editor's memory manager, which decides which models are on the device: ours and its own."""

    def adopt(self, module: nn.Module, leave: Callable[[], None]) -> object:
        """Register a network that is on the CPU. Returns the manager's handle of it, kept as long as the network.

        leave: to be called before the network is taken off the device; afterwards it has no weights.
        """

    def room(self, adopted: Sequence[object], weights: int, need: Need) -> int:
        """How many of `weights` bytes fit onto the device together, beside a forward of one row. Those that the
        networks of these handles have there count as free; other models leave as far as it takes."""

    def bring(self, adopted: Sequence[object], need: int) -> None:
        """Load the networks of these handles onto the device together, with `need` bytes left for their forwards."""


class Placed(Generic[Module]):
    """A network that is read on first use, and is on its device as long as there is room.

    build: `build(dtype)` returns the module on the CPU, its weights read as that dtype from whatever the file has.
    Where a network needs room, others leave: on an accelerator those that were used longest ago, on a CPU all other
    large ones, so that the largest stage sets the memory needed, not the sum of all. What leaves is dropped, and read
    from its file again: nothing is copied back. A network larger than its device has its weights fetched as they are
    used, see `stream`. manager: an editor's, which then decides what leaves. packs: whether a processor may rearrange
    the weights, which gradients then no longer pass. wider: what the network is read as from an overflow on, see
    `widen`. compiles: whether a step of the network is compiled (`compile_steps`), which leaves the weights as they
    are; its float32 and unpacked twins, which are there for exactness and gradients, never are.

    with_halves: returns what `build(torch.float32)` does, but with large weights as the file has them where that is in
    half precision. Where weights may be rearranged it is called in its place: they are widened as they are used
    (models/widened.py), which gives the same results.

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
        wider: torch.dtype | None = None,
        compiles: bool = False,
        with_halves: Callable[[], Module] | None = None,
    ) -> None:
        self.device = device
        self.weights = dtype
        self.dtype = torch.float32 if dtype == torch.int8 else dtype
        self._wider = wider
        self._build = build
        self._manager = manager
        self._packs = packs and device.type == "cpu" and manager is None and not compiles
        self._compiles = compiles
        self._with_halves = with_halves
        self._adopted: object = None
        self._adopted_module: Module | None = None  # the manager's handle outlives the weights, see `_leave`
        self._module: Module | None = None
        self._bytes = 0  # of the weights as they were read: packed ones are no parameters any more
        self._resident = 0  # of those, how many are on the device while it runs
        self._fetched = 0  # and how many are copied there as they are used
        self._need = Need()  # of the run that used it last
        self._alone: int | None = None  # bytes of one row's forward beside which networks of other runs do not fit
        self._too_large: int | None = None  # bytes of one row's forward beside which weights do not fit
        self._said = False  # whether the user was told that some are
        self._float32: Placed[Module] | None = None
        self._unpacked: Placed[Module] | None = None
        self._lock = threading.Lock()

    def on_device(self, *others: Placed, need: Need = Need()) -> Module:  # noqa: B008 - frozen
        """The network on its device, in evaluation mode, without gradients.

        others: networks of the same run, loaded together with this one, each on its own device. need: what their
        forwards will take. To be called once before a run starts: networks of other runs may be dropped by it. Raises
        MemoryError with what to do where not even the network's small weights fit.
        """
        for other in others:
            if other.device != self.device:
                other.on_device()
        self._need = need
        # Each once: a decoder may be guided by one CLIP twice.
        networks = tuple(dict.fromkeys((self, *(other for other in others if other.device == self.device))))
        if any(placed._alone is not None and need.least >= placed._alone for placed in networks):
            need = Need(WHOLE_DEVICE, need.least)
        # Nodes run under inference mode; weights made or moved there could never take part in a gradient.
        with torch.inference_mode(False), _placing:
            if self._manager is None and self.device.type == "cpu":
                _load_on_cpu(networks)
            else:
                _load_on_accelerator(networks, need)
        return self.read()

    def in_memory(self) -> Module:
        """The network once more, as it is read, for what looks at its weights: those of one that runs may be packed, or
        fetched as they are used, and are no parameters then."""
        with torch.inference_mode(False):
            return self._build(self.dtype).eval().requires_grad_(False)

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
                    raise MemoryError(does_not_fit("Load unCLIP", self.weights, torch.device("cpu"))) from error
                self._module, self._resident, self._fetched = module, self._bytes, 0
            return self._module

    def _build_module(self) -> Module:
        if self._compiles:
            check_compiler(self.device)
        started = time.perf_counter()
        if self._packs and self._with_halves is not None and self.weights == torch.float32:
            module = widen_as_used(self._with_halves())
        else:
            module = self._build(self.weights)
        module = module.eval().requires_grad_(False)
        # Converted on the CPU, so that moving to the device copies nothing but the final weights.
        module = module.to(dtype=self.dtype, memory_format=memory_format(self.device))
        self._bytes = module_bytes(module)
        if self._packs:
            freeze(module)
        if self._compiles:
            compile_steps(module)
        widened = widened_bytes(module)
        how = "weights packed as they are used" if self._packs else "weights as they are"
        if widened:
            how += f", {widened / 2e9:.2f} GB of them in half precision until then"
        log.info(
            "%s: %.1f M parameters, %.2f GB in %s for %s, opened in %.2f s, %d threads, %s",
            type(module).__name__,
            (sum(each.numel() for each in module.parameters()) + integer_bytes(module) + widened // 4) / 1e6,
            self._bytes / 1e9,
            str(self.weights).removeprefix("torch."),
            self.device,
            time.perf_counter() - started,
            torch.get_num_threads(),
            how,
        )
        return module

    def as_float32(self) -> Placed[Module]:
        """The same network in float32, as exact as its file and not compiled, for what rounding would spoil; this
        object if it is."""
        if self.weights == torch.float32 and not self._compiles:
            return self
        if self._float32 is None:
            self._float32 = Placed(
                self._build, self.device, torch.float32, self._manager, with_halves=self._with_halves
            )
        return self._float32

    def widen(self) -> bool:
        """After an overflow: whether there is a dtype of a wider range to go on with. The next use reads the network as
        that."""
        if self._wider is None:
            return False
        self.drop()
        self.weights = self.dtype = self._wider
        self._wider = None
        return True

    def leave_alone(self) -> bool:
        """After a forward of one row did not fit: whether networks of other runs may have been in its way. From now on
        they leave the device for forwards of that size and larger ones."""
        known = self._alone is not None and self._need.least >= self._alone
        if self._module is None or self.device.type == "cpu" or known:
            return False
        self._alone = self._need.least
        return True

    def fetch_more(self) -> bool:
        """After a forward of one row did not fit: whether fewer weights can lie on the device. From then on as few as
        can be do, for forwards of that size and larger ones; other networks leave."""
        if self._module is None or self.device.type == "cpu" or fetches_all(self._module):
            return False
        self._too_large = self._need.least
        with _placing:
            for placed in _current(self.device):
                placed.drop()
        return True

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
    def fetches(self) -> bool:
        """Whether some of its weights are copied to the device each time they are used."""
        return self._module is not None and self._fetched > 0

    @property
    def weight_bytes(self) -> int:
        """Size of the weights, as they were read; 0 before that."""
        return self._bytes

    def unload(self) -> None:
        """Drop the weights from memory, those of its twins too; the next use reads them again."""
        self.drop()
        for twin in (self._float32, self._unpacked):
            if twin is not None:
                twin.unload()

    def drop(self) -> None:
        """Drop the weights from memory and the device; twins keep theirs."""
        with _placing:
            self._module = self._adopted = self._adopted_module = None
            _set_current(self.device, [placed for placed in _current(self.device) if placed is not self])

    def adopted(self) -> object:
        """The manager's handle of the network as it was read last."""
        if self._adopted_module is not self.read():
            mine = weakref.ref(self)  # a handle that held this object would keep a dropped stack in memory

            def leave() -> None:
                if (placed := mine()) is not None:
                    placed._leave()

            self._adopted_module = self._module
            self._adopted = self._manager.adopt(self._module, leave)
        return self._adopted

    def _leave(self) -> None:
        """The manager takes the network off its device. Its weights go here and now, or they would be copied to the
        CPU, where their file is mapped anyway. The handle stays until another takes its place: the manager is still
        using it."""
        if self._module is not None:
            for layer in self._module.modules():
                for name, parameter in layer.named_parameters(recurse=False):
                    layer._parameters[name] = nn.Parameter(parameter.new_empty(0, device="cpu"), requires_grad=False)
            forget_fetched(self._module)
            self._module = self._adopted_module = None


def module_bytes(module: nn.Module) -> int:
    """Size of a network's parameters, those that are integers or widened as they are used among them."""
    floats = sum(parameter.numel() * parameter.itemsize for parameter in module.parameters())
    return floats + integer_bytes(module) + widened_bytes(module)


_on_device: dict[torch.device, list[weakref.ref[Placed]]] = {}  # weak: a stack that is dropped must free its memory
# Of what lies where. Two threads that placed at once would each forget what the other did, and it would never leave.
_placing = threading.RLock()


def _current(device: torch.device) -> list[Placed]:
    """The networks that lie on the device and still exist, the one used longest ago first."""
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


def _load_on_accelerator(networks: Sequence[Placed], need: Need) -> None:
    """Bring `networks` onto their device together; what does not fit is fetched as it is used.

    Estimates may err, and others use the device too: where it says that it is full, all other networks leave, then
    what has to lie there becomes less.
    """
    device = networks[0].device
    for attempt in (_place, _place_alone, _place_least):
        try:
            attempt(networks, need)
            return
        except RuntimeError as error:  # of the device; what memory cannot hold raises MemoryError, with its own advice
            if not is_out_of_memory(error):
                raise
            full = error.with_traceback(None)  # whose frames hold the weights
        for placed in networks:
            placed.drop()
    raise MemoryError(does_not_fit("Load unCLIP", networks[0].dtype, device)) from full


def _place(networks: Sequence[Placed], need: Need) -> None:
    for placed in networks:
        placed.read()
    weights = sum(placed._bytes for placed in networks)
    room = _room(networks, weights, need)
    if any(placed._too_large is not None and need.least >= placed._too_large for placed in networks):
        room = 0
    fetching = [placed for placed in networks if placed._fetched]
    if room >= weights:
        for placed in fetching:
            placed.drop()
    elif not fetching or (sum(placed._resident for placed in networks) > room and not all(map(_at_least, networks))):
        _stream(networks, max(0, room))
    _bring(networks, need)


def _place_alone(networks: Sequence[Placed], need: Need) -> None:
    for other in _current(networks[0].device):
        other.drop()
    _place(networks, need)


def _at_least(placed: Placed) -> bool:
    """Whether no less of the network can lie on the device."""
    return fetches_all(placed.read())


def _place_least(networks: Sequence[Placed], need: Need) -> None:
    _stream(networks, 0)
    _bring(networks, need)


def _stream(networks: Sequence[Placed], budget: int) -> None:
    """Split networks so that `budget` bytes of weights are on the device. The first one, which runs most, chooses."""
    for placed in networks:
        placed.drop()
        module = placed.read()
        placed._fetched, largest = stream(module, placed.device, budget)
        placed._resident = module_bytes(module) + largest
        budget -= placed._resident
        if placed._fetched and not placed._said:
            placed._said = True
            log.warning(
                "%s: %.2f of its %.2f GB of weights do not fit onto %s and are copied there each time they are used, "
                "which is slow; choose dtype bf16 or fp16 or a smaller model in Load unCLIP, or close programs",
                type(module).__name__,
                placed._fetched / 1e9,
                placed._bytes / 1e9,
                placed.device,
            )


def _room(networks: Sequence[Placed], weights: int, need: Need) -> int:
    """See `Manager.room`."""
    first = networks[0]
    if first._manager is not None:
        return first._manager.room([placed.adopted() for placed in networks], weights, need)
    device, current = first.device, _current(first.device)
    here = sum(module_bytes(placed.read()) for placed in networks if placed in current)
    for other in current:
        if free_bytes(device) + here >= weights + need.asked:
            break
        if other not in networks:
            other.drop()
    return free_bytes(device) + here - need.least


def _bring(networks: Sequence[Placed], need: Need) -> None:
    first = networks[0]
    if first._manager is not None:
        first._manager.bring([placed.adopted() for placed in networks], need.asked)
        return
    current = _current(first.device)
    for placed in networks:
        module = placed.read()
        if placed not in current:
            module.to(first.device)
    _set_current(first.device, [other for other in current if other not in networks] + list(networks))
