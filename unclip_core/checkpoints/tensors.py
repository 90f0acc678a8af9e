"""The tensors of a WeightSet, by name: mapped from the file, or read into memory of their own.

PyTorch's files are read here, not by torch.load: what describes their tensors is never unpickled (pickles.py).

A mapped tensor costs no memory until it is touched, and then only pages that the system can drop; with the process they
stay as long as the mapping, if they are not given back.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .header import CheckpointError, TensorEntry, WeightSet, read_entries
from .pickles import Pickled, read_state_dict
from .stand_ins import Listed

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
    """Every tensor of the set by name. Raises CheckpointError for a damaged file, or one with code in it."""
    found: dict[str, Source] = {}
    for path in weights.files:
        sources = _safetensors(path) if path.suffix == ".safetensors" else pickled_sources(path, *read_state_dict(path))
        if twice := sorted(found.keys() & sources.keys()):
            raise CheckpointError(f"{path}: {twice[0]} is in {found[twice[0]].path.name} as well; download both again")
        found.update(sources)
    return found


def pickled_sources(path: Path, pickled: Pickled, tensors: Mapping[str, Listed]) -> dict[str, Source]:
    """Tensors that a PyTorch file describes, by name. The file is mapped once, and stays so as long as one of them."""
    with open(path, "rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # of the process alone, as torch.load maps it

    def source(tensor: Listed) -> Source:
        dtype, storage = DTYPES[tensor.dtype], tensor.storage

        def mapped() -> Tensor:
            if tensor.count == 0:
                return torch.empty(tensor.shape, dtype=dtype)
            place = pickled.places[storage.key]
            if place % storage.item_bytes:  # the format before zip archives aligns nothing
                numbers = torch.frombuffer(bytearray(content[place : place + storage.nbytes]), dtype=dtype)
            else:
                numbers = torch.frombuffer(content, dtype=dtype, count=storage.count, offset=place)
            return numbers.as_strided(tensor.shape, tensor.stride, tensor.offset)

        return Source(path, dtype, tensor.shape, mapped, lambda: mapped().clone())

    return {name: source(tensor) for name, tensor in tensors.items()}


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
