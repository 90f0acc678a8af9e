"""Layers whose weights stay where they were read, and are copied to the device each time they are used.

So a network runs on a device that is smaller than its weights, at the price of the copying. What is copied is taken
straight from the mapped file where the file has the run's dtype.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Weights below this always lie on the device: each copy costs a launch of its own.
SMALL_BYTES = 2**20


def stream(module: nn.Module, device: torch.device, budget: int) -> tuple[int, int]:
    """Move a network that lies on the CPU to `device` with at most `budget` bytes of weights there at a time, and let
    it fetch the others as they are used. Returns how many bytes those are, and the largest of them.

    The largest weights are fetched: few large copies run at the speed of the bus. Weights of a layer that is fetched
    are no parameters any more, so that all parameters lie on the device. Raises what the device raises where not even
    the small weights fit.
    """
    found = [
        (parameter.nbytes, layer, name)
        for layer in module.modules()
        for name, parameter in layer.named_parameters(recurse=False)
        if parameter.nbytes >= SMALL_BYTES
    ]
    found.sort(key=lambda each: each[0])
    small = sum(parameter.nbytes for parameter in module.parameters()) - sum(size for size, *_ in found)
    room = budget - small - (found[-1][0] if found else 0)  # one of them is there while it is used
    fetched: dict[nn.Module, list[str]] = {}
    total = largest = 0
    for size, layer, name in found:
        if total == 0 and size <= room:
            room -= size
        else:
            fetched.setdefault(layer, []).append(name)
            total, largest = total + size, size
    for layer, names in fetched.items():
        _fetch(layer, tuple(names), device)
    module.to(device)
    return total, largest


def fetches_all(module: nn.Module) -> bool:
    """Whether all weights that `stream` can have fetched are, so that no less of the network can lie on a device."""
    return all(parameter.nbytes < SMALL_BYTES for parameter in module.parameters())


def forget_fetched(module: nn.Module) -> None:
    """Drop the weights that are fetched, of a network that will not run again."""
    for layer in module.modules():
        layer.__dict__.pop("_kept", None)


def _fetch(layer: nn.Module, names: tuple[str, ...], device: torch.device) -> None:
    """Take parameters out of a layer and have each read of them give a copy on `device`."""
    kept = {name: layer._parameters.pop(name).detach() for name in names}
    layer.__dict__["_kept"] = kept
    layer.__dict__["_fetched_to"] = device
    layer.__class__ = _fetching(type(layer), names)


@cache
def _fetching(kind: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """A class of layers that differs from `kind` in where these attributes come from. Not hooks around forward: a
    layer's weight is read outside of it too, as nn.MultiheadAttention does with its projections."""
    body: dict[str, object] = {name: property(_reader(name)) for name in names}
    if issubclass(kind, nn.Embedding) and "weight" in names:
        body["forward"] = _look_up
    return type(f"Fetching{kind.__name__}", (kind,), body)


def _reader(name: str):
    def read(layer: nn.Module) -> Tensor:
        return layer.__dict__["_kept"][name].to(layer.__dict__["_fetched_to"])

    return read


def _look_up(layer: nn.Embedding, ids: Tensor) -> Tensor:
    """The rows alone travel: a table of words is large, a caption short."""
    rows = F.embedding(ids.cpu(), layer.__dict__["_kept"]["weight"], layer.padding_idx)
    return rows.to(layer.__dict__["_fetched_to"])
