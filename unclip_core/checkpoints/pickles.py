"""What a PyTorch pickle (.bin, .ckpt) says about itself, read without torch and without running anything in it.

The pickle's instructions are listed, not executed. Loading proper goes through `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .header import CheckpointError, WeightSet, guarded, remembered, weight_set

_STORAGES = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
# All that a state dict needs.
_HARMLESS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch.nn.parameter Parameter",
    "torch Size",
    *(f"torch {name}" for name in _STORAGES),
}
_MAX_PICKLE = 100_000_000  # bytes: names and shapes alone, the numbers lie in files of their own
_LEGACY_PICKLES = 4  # magic number, protocol, system, object: what matters of the format before zip archives


def count_pickled(path: Path) -> WeightSet:
    """A pickled state dict as a set of weights. Raises CheckpointError for one that is cut, damaged or holds code."""
    return weight_set((path,), _count(path))


def pickle_mentions(path: Path, name: str) -> bool:
    """Whether a pickled state dict holds a tensor's name: quicker than to understand the names of all.

    Raises CheckpointError for what is no PyTorch file.
    """
    with guarded(path), open(path, "rb") as file:
        return any(name.encode() in part.read(_MAX_PICKLE) for part in _pickles(path, file))


def list_pickled(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names, dtypes (safetensors' words) and shapes of a pickled state dict's tensors, those under `state_dict` if it
    has that key. Raises CheckpointError for one that is cut, damaged or holds code."""
    with guarded(path):
        _count(path)  # refuses code by name before anything is built
        with open(path, "rb") as file:
            *_, last = (_Lister(part).load() for part in _pickles(path, file))
    state = last.get("state_dict", last) if isinstance(last, Mapping) else {}
    found = {str(name): (item.dtype, item.shape) for name, item in state.items() if isinstance(item, _Listed)}
    if not found:
        raise CheckpointError(f"{path}: holds no tensors by name; this is not a file of weights")
    return found


@dataclass(frozen=True)
class _Listed:
    """Stands for a tensor."""

    dtype: str
    shape: tuple[int, ...]


class _Lister(pickle.Unpickler):
    """Builds containers of stand-ins; nothing of PyTorch is imported, and every other name is refused."""

    def find_class(self, module: str, name: str):
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch", "Size"): tuple,
            ("torch._utils", "_rebuild_tensor_v2"): lambda storage, _, shape, *__: _Listed(storage, tuple(shape)),
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"refused {module}.{name}")

    def persistent_load(self, identity: tuple) -> str:
        return identity[1]


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive: a program with its weights."""
    with guarded(path):
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())


@remembered
def _count(path: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    seen: set[str] = set()
    for dtype, key, numel in _storages(path):
        if key not in seen:  # tied weights share one
            seen.add(key)
            counts[dtype] = counts.get(dtype, 0) + numel
    if not counts:
        raise CheckpointError(f"{path}: no tensors in it; this is not a file of weights")
    return counts


def _storages(path: Path) -> Iterator[tuple[str, str, int]]:
    """(dtype, storage key, elements) of every storage the pickle mentions."""
    with open(path, "rb") as file:
        for part in _pickles(path, file):
            yield from _listed(path, part)


def _pickles(path: Path, file: BinaryIO) -> Iterator[BinaryIO]:
    """The pickles that describe the tensors of a PyTorch file, to be read one after another. Raises CheckpointError."""
    start = file.read(2)
    if start == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                found = [name for name in archive.namelist() if name.endswith("/data.pkl")]
                if found and archive.getinfo(found[0]).file_size > _MAX_PICKLE:
                    raise CheckpointError(f"{path}: its data.pkl is too large to be a state dict; download it again")
                data = archive.read(found[0]) if found else b""
        except (zipfile.BadZipFile, EOFError, OSError):
            raise CheckpointError(f"{path}: truncated or damaged; download it again") from None
        if not found:
            raise CheckpointError(f"{path}: an archive without data.pkl, so no PyTorch file; download it again")
        yield io.BytesIO(data)
    elif start[:1] == b"\x80":
        file.seek(0)
        for _ in range(_LEGACY_PICKLES):
            yield file
    else:
        size = path.stat().st_size
        raise CheckpointError(f"{path}: not a PyTorch file ({size} bytes, begins with {start!r}); download it again")


def _listed(path: Path, pickled) -> Iterator[tuple[str, str, int]]:
    memo: dict[int, object] = {}
    since_mark: list[object] = []  # values pushed since the last MARK: a storage's five when BINPERSID comes
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            name = opcode.name
            if name == "GLOBAL":
                if argument not in _HARMLESS:
                    raise CheckpointError(
                        f"{path}: holds code ({argument.replace(' ', '.')}), not weights alone; do not use this file"
                    )
                since_mark.append(argument)
            elif name in ("STACK_GLOBAL", "INST", "OBJ"):
                raise CheckpointError(f"{path}: holds code or an unknown pickle format ({name}); do not use this file")
            elif name == "MARK":
                since_mark = []
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = since_mark[-1] if since_mark else None
            elif name in ("BINGET", "LONG_BINGET"):
                since_mark.append(memo.get(argument))
            elif name == "BINPERSID":
                storage, key, numel = since_mark[1], since_mark[2], since_mark[4]
                yield _STORAGES[storage.removeprefix("torch ")], str(key), int(numel)
            elif argument is not None:
                since_mark.append(argument)
    except CheckpointError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise CheckpointError(f"{path}: truncated or not a PyTorch file; download it again") from None
