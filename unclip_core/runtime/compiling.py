"""`torch.compile` for what a network runs at every step.

A network says what that is by `per_step`, the name of a method. A step's numbers stay outside: its time features come
in as a tensor, so no step is another graph.
"""

from __future__ import annotations

import weakref
from functools import cache
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)
# Of one method, counted by dynamo over all networks of a class, with their LoRAs, sizes and kinds of steps. What comes
# after its usual 8 would run uncompiled, with no more than a line in a log.
VARIANTS = 64


def compile_steps(network: Module) -> Module:
    """The network with its method for a step compiled when it is first called, which may take minutes; the very network
    where none is named.

    Raises RuntimeError where `torch.compile` does not work on the network's device.
    """
    name = getattr(network, "per_step", None)
    if name is not None:
        # The class's own, as the network may be a copy of a compiled one. Not bound to the network, which would then
        # hold itself, and its weights would stay on the device after they were dropped.
        step, mine = torch.compile(getattr(type(network), name)), weakref.ref(network)

        def compiled(*args, **kwargs):
            _allow_variants()
            return step(mine(), *args, **kwargs)

        network.__dict__[name] = compiled
    return network


def _allow_variants() -> None:
    """Set at every step: newer dynamos have their settings for one thread, and one prompt of the editor, alone."""
    import torch._dynamo.config as dynamo  # takes seconds the first time

    if dynamo.recompile_limit < VARIANTS:
        dynamo.recompile_limit = VARIANTS


def is_compiled(network: nn.Module) -> bool:
    """Whether `compile_steps` changed this network, or the one that it is a copy of."""
    return getattr(network, "per_step", None) in network.__dict__


def check_compiler(device: torch.device) -> None:
    """Raises RuntimeError where `torch.compile` does not work on `device`, with its reason and what to do."""
    if reason := _why_not(device.type):
        raise RuntimeError(
            f"Load unCLIP: compile is on, but torch.compile does not work on {device} here: {reason}; turn compile "
            "off, or install what it asks for (a C++ compiler for processors, Triton for GPUs)"
        )


@cache
def _why_not(kind: str) -> str:
    """Tried once a process on a tiny function, which takes seconds; "" where it works."""
    try:
        with torch.no_grad():
            torch.compile(lambda x: x.sin() + 1.0, fullgraph=True)(torch.zeros(8, device=kind))
    except Exception as error:  # of many kinds, PyTorch's own and those of the compilers behind it
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return ""
