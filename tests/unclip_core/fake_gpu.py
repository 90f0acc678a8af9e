"""A GPU without a GPU: fake tensors, which have shapes, strides and a device but no numbers; and what goes to them."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

CORE = str(Path(__file__).parents[2] / "unclip_core")
# What a fake tensor's number is said to be. Flags are true: runs are finite, and whatever may be repeated is.
ANSWERS = {torch.bool: True, torch.int64: 77}
aten = torch.ops.aten


@dataclass(frozen=True)
class Crossing:
    """One transfer between the host and the device.

    kind: "read", the host waits for the device's numbers; "blocking", the host waits until its own are there; "pinned",
    nobody waits. where: the innermost function of the core that asked for it.
    """

    kind: str
    where: str
    op: str


class FakeGpu(TorchDispatchMode):
    """Fake tensors everywhere, with every transfer recorded in `crossings`. `watchers` see every operation.

    An operation on tensors of two devices raises, as on a GPU, and so does one in float64.
    """

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cuda", 0)
        self.crossings: list[Crossing] = []
        self.watchers = []
        self._pinned: set[int] = set()
        self._kept: list[torch.Tensor] = []  # ids are of living tensors
        self._stack = contextlib.ExitStack()

    @staticmethod
    def fake_tensors():
        """Fake tensors alone, without a record."""
        return FakeTensorMode(allow_non_fake_inputs=True)

    def __enter__(self):
        self._stack.enter_context(self.fake_tensors())
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._stack.close()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is aten._local_scalar_dense.default:
            if args[0].device == self.device:
                self._record("read", function)
            return ANSWERS.get(args[0].dtype, 0.0)
        if function is aten.is_pinned.default:
            return id(args[0]) in self._pinned
        if function is aten._pin_memory.default:
            assert args[0].device.type == "cpu" and args[0].is_contiguous(), (
                "rows that share their numbers cannot be pinned"
            )
            pinned = aten.clone.default(args[0])
            self._pinned.add(id(pinned))
            self._kept.append(pinned)
            return pinned
        out = function(*args, **kwargs)
        if function is aten.convolution.default and out.ndim == 4:
            # As cuDNN does, for which fake tensors ask the machine in vain.
            last = torch.channels_last
            if any(each.is_contiguous(memory_format=last) and not each.is_contiguous() for each in args[:2]):
                out = out.contiguous(memory_format=last)
        self._look(function, args, kwargs, out)
        return out

    def _look(self, function, args, kwargs, out) -> None:
        if function in (aten._to_copy.default, aten.copy_.default):
            source, target = (args[0], out) if function is aten._to_copy.default else (args[1], args[0])
            waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            if source.device != target.device and "meta" not in (source.device.type, target.device.type):
                if target.device.type == "cpu":
                    self._record("read", function)
                else:
                    self._record("blocking" if waits or id(source) not in self._pinned else "pinned", function)
        else:
            # Indices of the host, say, which an operation copies by itself.
            places = {each.device.type for each in tensors((args, kwargs)) if each.ndim}
            if {"cpu", self.device.type} <= places:
                self._record("blocking", function)
        for each in tensors((out,)):
            assert each.device != self.device or each.dtype != torch.float64, f"{function}: MPS has no float64"
        for watch in self.watchers:
            watch(function, args, kwargs, out)

    def _record(self, kind, function) -> None:
        frame, where = sys._getframe(), "?"
        while frame is not None:
            if frame.f_code.co_filename.startswith(CORE):
                where = f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}"
                break
            frame = frame.f_back
        self.crossings.append(Crossing(kind, where, str(function)))


def tensors(values):
    """All tensors of nested arguments."""
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple | dict):
            yield from tensors(value)


def rebinding_apply(self, fn, recurse=True):
    """`nn.Module._apply` that binds new parameters: PyTorch's own cannot swap fake ones."""
    for child in self.children():
        child._apply(fn)
    for name, parameter in self._parameters.items():
        if parameter is not None:
            self._parameters[name] = nn.Parameter(fn(parameter.detach()), requires_grad=parameter.requires_grad)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = fn(buffer)
    return self


@dataclass
class Run:
    """What a run gave, and what crossed during each of its steps; the first holds the preparation too."""

    result: object = None
    steps: list[list[Crossing]] = field(default_factory=list)

    def loop(self) -> list[Crossing]:
        """All that crossed during the steps after the first."""
        return [crossing for step in self.steps[1:] for crossing in step]


def watched(gpu: FakeGpu, steps) -> Run:
    """Runs a stage's generator to its end on the fake GPU. What it was made of has real numbers, its schedule among
    them."""
    run = Run()
    with gpu:
        while True:
            gpu.crossings.clear()
            try:
                state = next(steps)
            except StopIteration as end:
                run.result = end.value
                return run
            run.steps.append(list(gpu.crossings))
            assert state.x_t.device == state.x0.device == gpu.device
