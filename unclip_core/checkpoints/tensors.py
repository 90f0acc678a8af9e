"""The tensors of a WeightSet, by name: mapped from the file, or read into memory of their own.

A mapped tensor costs no memory until it is touched, and then only pages that the system can drop; with the process they
stay as long as the mapping, if they are not given back.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..texts import one_line
from .header import CheckpointError, TensorEntry, WeightSet, read_entries
from .pickles import check_pickle

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@dataclass(frozen=True)
class Source:
    """One tensor on disk. mapped: a view of the mapped file; read: the same numbers in memory of their own."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    mapped: Callable[[], Tensor]
    read: Callable[[], Tensor]


def open_weights(weights: WeightSet) -> dict[str, Source]:
    """Every tensor of the set by name. Raises CheckpointError for a damaged file or a pickle with code in it."""
    found: dict[str, Source] = {}
    for path in weights.files:
        sources = _safetensors(path) if path.suffix == ".safetensors" else pickled(path, read_pickle(path))
        if twice := sorted(found.keys() & sources.keys()):
            raise CheckpointError(f"{path}: {twice[0]} is in {found[twice[0]].path.name} as well; download both again")
        found.update(sources)
    return found


def read_pickle(path: Path) -> object:
    """What torch.save wrote, tensors mapped from the file; only tensors and plain containers are let through."""
    check_pickle(path)
    try:
        # The format before zip archives cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: refused by torch.load ({_reason(error)}); do not use it") from None
    except Exception as error:  # PyTorch's readers raise whatever a damaged file makes them
        raise CheckpointError(f"{path}: not a complete PyTorch file ({_reason(error)}); download it again") from None


def _reason(error: Exception) -> str:
    """What PyTorch's reader stumbled over, without its advice to turn its checks off."""
    text = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
    if "weights_only" in text or not text.strip():
        return type(error).__name__
    return one_line(text.strip().splitlines()[0], 160)


def pickled(path: Path, state: object) -> dict[str, Source]:
    """An unpickled state dict's tensors, those under `state_dict` if it has that key."""
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not tensors by name")
    return {
        str(name): Source(path, tensor.dtype, tuple(tensor.shape), lambda t=tensor: t, lambda t=tensor: t.clone())
        for name, tensor in state.items()
        if isinstance(tensor, Tensor)
    }


def _safetensors(path: Path) -> dict[str, Source]:
    _, entries = read_entries(path)
    try:
        mapping = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error}); download it again") from None
    sources = {}
    for name, entry in entries.items():
        if entry.dtype not in DTYPES:
            raise CheckpointError(f"{path}: {name} is stored as {entry.dtype}; known are {', '.join(DTYPES)}")
        sources[name] = Source(
            path,
            DTYPES[entry.dtype],
            entry.shape,
            lambda name=name: mapping.get_tensor(name),
            lambda entry=entry: _read(path, entry),
        )
    return sources


def _read(path: Path, entry: TensorEntry) -> Tensor:
    tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    if tensor.numel() == 0:
        return tensor
    with open(path, "rb", buffering=0) as file:
        file.seek(entry.start)
        view = memoryview(tensor.view(-1).view(torch.uint8).numpy())
        while len(view):
            count = file.readinto(view)
            if not count:
                raise CheckpointError(f"{path}: truncated while it was read; download it again")
            view = view[count:]
    return tensor
