"""Tensors of a TorchScript archive (OpenAI's ViT-L-14.pt), without running it.

`torch.jit.load` compiles the program inside. The archive's pickle alone names every attribute, so it is read with
stand-ins for the program's classes: nothing of it is imported or called.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .header import CheckpointError
from .tensors import Source

_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Object:
    """Stands for an object of the program: holds its attributes."""

    def __setstate__(self, state: object) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Reader(pickle.Unpickler):
    """Knows tensors and stand-ins; every other name is refused."""

    def find_class(self, module: str, name: str):
        if module.split(".")[0] == "__torch__":
            return _Object
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, stride, *_: _Tensor(storage, offset, tuple(shape), tuple(stride))
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        # Lists and dicts of numbers and tensors go through functions that return what they are given.
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return lambda items, *_: items
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"refused {module}.{name}")

    def persistent_load(self, identity: tuple) -> _Storage:
        _, dtype, key, *_ = identity
        return _Storage(dtype, str(key))


def open_torchscript(path: Path) -> dict[str, Source]:
    """Every tensor of the archive by its dotted name. Raises CheckpointError for a damaged or foreign archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
            top = _Reader(io.BytesIO(archive.read(f"{root}data.pkl"))).load()
        return {name: _source(path, root, tensor) for name, tensor in _walk(top, "")}
    except Exception as error:  # a damaged archive makes the readers raise whatever it likes
        raise CheckpointError(
            f"{path}: not a readable TorchScript archive ({str(error)[:160]}); download it again"
        ) from None


def _walk(item: object, prefix: str):
    for name, value in vars(item).items() if isinstance(item, _Object) else ():
        if isinstance(value, _Tensor):
            yield prefix + name, value
        else:
            yield from _walk(value, f"{prefix}{name}.")


def _source(path: Path, root: str, tensor: _Tensor) -> Source:
    def read() -> Tensor:
        try:
            with zipfile.ZipFile(path) as archive:
                numbers = torch.frombuffer(bytearray(archive.read(f"{root}data/{tensor.storage.key}")), dtype=dtype)
            return numbers.as_strided(tensor.shape, tensor.stride, tensor.offset).contiguous()
        except (zipfile.BadZipFile, OSError, KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path}: damaged ({error}); download it again") from None

    dtype = tensor.storage.dtype
    if math.prod(tensor.shape) == 0:
        return Source(path, dtype, tensor.shape, lambda: torch.empty(tensor.shape, dtype=dtype), read)
    return Source(path, dtype, tensor.shape, read, read)
