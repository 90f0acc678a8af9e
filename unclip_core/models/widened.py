"""Weights that stay in half precision, as their file has them, and are multiplied in float32.

Every number of half precision is one of float32, so results are those of a network read as float32, to the last bit.
Where a layer would not rearrange its weight it is widened at each use: a convolution over a large map, a linear layer
over many rows. Where it would, the float32 copy is kept while there is free memory, and made anew at each use where
there is none.

Milliseconds on one core of an AMD EPYC (Zen 5), float32 kept / widened at each use from the mapped bfloat16 file:

| layer                                 | ms          |
|---------------------------------------|-------------|
| conv 320 -> 320, 256 px, batch 1      | 497 / 498   |
| conv 640 -> 640, 128 px, batch 1      | 509 / 510   |
| linear 640 -> 1920, 2048 rows         | 48.9 / 49.0 |
| rearranged, conv 640, 32 px, batch 2  | 62 / 65     |
| rearranged, conv 960, 16 px, batch 2  | 35 / 44     |
| rearranged, conv 1280, 8 px, batch 2  | 18 / 33     |
| rearranged, linear 2048 -> 8192, 6 rows   | 2.1 / 13.6  |
"""

from __future__ import annotations

import logging
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..pages import available_ram, drop_mapped_pages
from .kernels import Conv2d, Linear

log = logging.getLogger("comfyui_unclip")

HALVES = (torch.bfloat16, torch.float16)
# Weights below this, in half precision, become float32 when they are read: they are few bytes, and many calls.
SMALL_BYTES = 2**20
# What must stay free beside a kept float32 copy: as much as forwards may take, see `runtime/estimates.py`.
SPARE_BYTES = 2 * 2**30


def may_stay_half(shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> bool:
    """Whether a weight of a file is one that `widen_as_used` leaves as it is."""
    return dtype in HALVES and len(shape) > 1 and torch.Size(shape).numel() * dtype.itemsize >= SMALL_BYTES


def widen_as_used(network: nn.Module) -> nn.Module:
    """The network with its large weights of half precision where they are, and each read of them giving float32.

    They are no parameters any more, so that casting and moving what is left passes them by.
    """
    for layer in network.modules():
        names = [name for name, each in layer.named_parameters(recurse=False) if may_stay_half(each.shape, each.dtype)]
        if names:
            halves = {name: layer._parameters.pop(name).detach() for name in names}
            layer.__dict__["_halves"] = halves
            layer.__dict__["_widened_bytes"] = 4 * sum(half.numel() for half in halves.values())
            layer.__class__ = _widening(type(layer), tuple(names))
    return network


def widened_bytes(network: nn.Module) -> int:
    """What the weights that were left in half precision take as float32, whether they are kept so by now or not."""
    return sum(layer.__dict__.get("_widened_bytes", 0) for layer in network.modules())


@cache
def _widening(kind: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """A class of layers that differs from `kind` in where these attributes come from."""
    body: dict[str, object] = {name: property(_reader(name), _dropper(name)) for name in names}
    if issubclass(kind, Conv2d | Linear):
        body |= {"dtype": torch.float32, "may_keep_packed": _may_keep_packed}
    elif issubclass(kind, nn.Embedding):
        body["forward"] = _look_up
    return type(f"Widening{kind.__name__}", (kind,), body)


def _reader(name: str):
    def read(layer: nn.Module) -> Tensor | None:
        half = layer.__dict__["_halves"].get(name)
        if half is None:
            return None
        layout = torch.channels_last if half.ndim == 4 else torch.contiguous_format
        return half.to(torch.float32, memory_format=layout)

    return read


def _dropper(name: str):
    def drop(layer: nn.Module, value: None) -> None:
        """A layer sets its weight to None when it has another in its place."""
        if value is not None:
            raise AttributeError(f"{type(layer).__name__}.{name} is that of a file, and cannot be set")
        drop_mapped_pages(layer.__dict__["_halves"].pop(name))

    return drop


def _look_up(layer: nn.Embedding, ids: Tensor) -> Tensor:
    """The rows alone are widened: a table of words is large, a caption short."""
    return F.embedding(ids, layer.__dict__["_halves"]["weight"]).to(torch.float32)


def _may_keep_packed(layer: Conv2d | Linear) -> bool:
    free = available_ram()
    if free is None or free >= SPARE_BYTES + layer.__dict__["_widened_bytes"]:
        return True
    _say_once()
    return False


@cache
def _say_once() -> None:
    log.warning(
        "less than %.0f GB of memory are free: weights stay in half precision and are made float32 each time they are "
        "used, which is slower and gives the same picture; close programs for speed",
        SPARE_BYTES / 1e9,
    )
