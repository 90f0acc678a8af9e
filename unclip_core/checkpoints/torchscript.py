"""Tensors of a TorchScript archive (OpenAI's ViT-L-14.pt), without running it.

`torch.jit.load` compiles the program inside. The archive's pickle alone names every attribute, so it is followed with
stand-ins for the program's classes (stand_ins.py): nothing of it is imported or called.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from .header import CheckpointError, guarded
from .pickles import follow_archive, open_archive, read_record
from .stand_ins import STORAGES, Listed, Made
from .tensors import DTYPES, Source

_HARMLESS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    *(f"torch.{name}" for name in STORAGES),
}
_MAX_DEPTH = 50  # of modules in modules


def open_torchscript(path: Path) -> dict[str, Source]:
    """Every tensor of the archive by its dotted name. Raises CheckpointError for a damaged or foreign archive."""
    with guarded(path):
        found, root = follow_archive(path, _is_program)
        return {name: _source(path, root, tensor) for name, tensor in _walk(path, found.value).items()}


def _is_program(name: str) -> bool:
    """Whether a name is a class of the archive's own program, or a function that returns what it is given."""
    return name.startswith(("__torch__.", "torch.jit._pickle.build_")) or name in _HARMLESS


def _walk(path: Path, top: object) -> dict[str, Listed]:
    """The tensors of an object and of those in it, by dotted name; an object that comes again is taken once."""
    found: dict[str, Listed] = {}
    seen = set()
    waiting = [("", top, 0)]
    while waiting:
        prefix, item, depth = waiting.pop()
        if not isinstance(item, Made) or id(item) in seen:
            continue
        seen.add(id(item))
        if depth > _MAX_DEPTH:
            raise CheckpointError(f"{path}: its modules are nested more than {_MAX_DEPTH} deep; do not use this file")
        for name, value in item.state.items():
            if isinstance(value, Listed):
                found[f"{prefix}{name}"] = value
            else:
                waiting.append((f"{prefix}{name}.", value, depth + 1))
    return found


def _source(path: Path, root: str, tensor: Listed) -> Source:
    dtype = DTYPES[tensor.dtype]

    def read() -> Tensor:
        if math.prod(tensor.shape) == 0:
            return torch.empty(tensor.shape, dtype=dtype)
        with guarded(path), open_archive(path) as archive:
            content = read_record(path, archive, f"{root}data/{tensor.storage.key}", path.stat().st_size)
            numbers = torch.frombuffer(bytearray(content), dtype=dtype)
            return numbers.as_strided(tensor.shape, tensor.stride, tensor.offset).contiguous()

    return Source(path, dtype, tensor.shape, read, read)
