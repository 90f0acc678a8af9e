"""What a safetensors file says about itself, read without torch: a length, a JSON header, then the tensors' bytes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ..config import FORMAT_VERSION, STAGE_CONFIGS, STAGES, from_json

_MAX_HEADER = 100_000_000  # bytes; the format's own limit
_ITEM_BITS = {"BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64}
SHORT_NAMES = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}
_ITEM_BITS |= {f"{kind}{bits}": bits for kind in "IU" for bits in (8, 16, 32, 64)}


class CheckpointError(ValueError):
    """A file of weights that cannot be used; the message names file, reason and fix."""


@dataclass(frozen=True)
class WeightSet:
    """A network's tensors on disk, complete: one file, or all shards of an index.

    dtype: what most of its numbers are stored as, "fp32", "bf16", "fp16" or safetensors' own word. parameters: how many
    floating point numbers it holds.
    """

    files: tuple[Path, ...]
    dtype: str
    parameters: int


@dataclass(frozen=True)
class StageFile:
    """One stage of a stack on disk.

    path: the native file, or the folder of a foreign stage's main network. config: the stage's dataclass. metadata: all
    string pairs of a native file. layout: "native" or the foreign layout's name. parts: the networks that a foreign
    layout spreads the stage over, by its own names, each with the sets of weights to choose from, the default first.
    """

    path: Path
    stage: str
    config: object
    metadata: dict[str, str]
    layout: str = "native"
    parts: dict[str, tuple[WeightSet, ...]] = field(default_factory=dict)

    def weights(self, dtype: str | None = None) -> dict[str, WeightSet]:
        """One set per part: the one stored as `dtype` where there is such a one, else the default."""
        return {name: next((s for s in sets if s.dtype == dtype), sets[0]) for name, sets in self.parts.items()}

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the default sets."""
        return tuple(path for weights in self.weights().values() for path in weights.files)

    @property
    def parameters(self) -> int:
        """How many floating point numbers the default sets hold."""
        return sum(weights.parameters for weights in self.weights().values())

    @property
    def dtype(self) -> str:
        """What the largest part is stored as."""
        return max(self.weights().values(), key=lambda weights: weights.parameters).dtype

    @property
    def licence(self) -> str | None:
        """The weights' licence, where the files name one."""
        return self.metadata.get("modelspec.license")


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies in a safetensors file: bytes start..stop of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path: str | os.PathLike) -> tuple[dict[str, str], dict[str, tuple[str, tuple[int, ...]]]]:
    """Metadata and tensors {name: (dtype, shape)} of a safetensors file, checked as `read_entries` does."""
    metadata, entries = read_entries(path)
    return metadata, {name: (entry.dtype, entry.shape) for name, entry in entries.items()}


def read_entries(path: str | os.PathLike) -> tuple[dict[str, str], dict[str, TensorEntry]]:
    """Metadata and tensors by name of a safetensors file, checked against the file's size.

    Raises CheckpointError for what is not a complete safetensors file.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER):
                # A header longer than the file is what a pickle, an HTML page or a cut download looks like.
                raise CheckpointError(f"{path}: not a complete safetensors file ({size} bytes); download it again")
            header = json.loads(file.read(length))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise CheckpointError(f"{path}: not a safetensors file (its header is not JSON); convert it first") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        metadata = header.pop("__metadata__", {})
        tensors, end = {}, 0
        for name, entry in header.items():
            dtype, shape = entry["dtype"], tuple(entry["shape"])
            start, stop = entry["data_offsets"]
            expected = math.prod(shape) * _ITEM_BITS.get(dtype, 0) // 8
            if dtype in _ITEM_BITS and stop - start != expected:
                raise CheckpointError(f"{path}: tensor {name} has {stop - start} bytes, but its shape needs {expected}")
            tensors[name] = TensorEntry(dtype, shape, 8 + length + start, 8 + length + stop)
            end = max(end, stop)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: not a safetensors file (malformed header); convert it first") from None
    if 8 + length + end != size:
        raise CheckpointError(f"{path}: truncated, {size} of {8 + length + end} bytes; download it again")
    return metadata, tensors


def count_numbers(paths: Iterable[Path]) -> WeightSet:
    """The safetensors files as one set. Raises CheckpointError for what is not a complete file."""
    paths = tuple(paths)
    counts: dict[str, int] = {}
    for path in paths:
        for dtype, count in _count(path, *stamp(path)).items():
            counts[dtype] = counts.get(dtype, 0) + count
    return weight_set(paths, counts)


def weight_set(files: tuple[Path, ...], counts: dict[str, int]) -> WeightSet:
    """From the number of elements per safetensors dtype."""
    numbers = {dtype: count for dtype, count in counts.items() if dtype.startswith(("F", "BF"))}
    largest = max(numbers, key=numbers.__getitem__, default="F32")
    return WeightSet(files, SHORT_NAMES.get(largest, largest), sum(numbers.values()))


def stamp(path: Path) -> tuple[int, int]:
    """Modification time and size: a cached reading holds while they do."""
    try:
        stat = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    return stat.st_mtime_ns, stat.st_size


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    fix = "check the path and its permissions"
    if isinstance(error, FileNotFoundError):  # deleted or moved since the model was listed
        fix = "check the path, put the file back, or get the model again with `unclip pull`"
    return CheckpointError(f"{path}: cannot be read ({error.strerror}); {fix}")


@lru_cache(maxsize=1024)
def _count(path: Path, _mtime: int, _size: int) -> dict[str, int]:
    counts: dict[str, int] = {}
    for dtype, shape in read_header(path)[1].values():
        counts[dtype] = counts.get(dtype, 0) + math.prod(shape)
    return counts


def read_stage(path: str | os.PathLike) -> StageFile:
    """What a native stage file holds. Raises CheckpointError with the reason if it is not one."""
    path = Path(path)
    return _read_stage(path, *stamp(path))


@lru_cache(maxsize=256)
def _read_stage(path: Path, _mtime: int, _size: int) -> StageFile:
    metadata, _ = read_header(path)
    version, stage = metadata.get("format_version"), metadata.get("stage")
    if version is None or stage is None or "config" not in metadata:
        raise CheckpointError(
            f"{path}: not an unCLIP stage (its metadata lacks format_version, stage or config); use `unclip convert`"
        )
    if version != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{path}: format version {version}, but this comfyui-unclip reads {FORMAT_VERSION}; update comfyui-unclip"
        )
    if stage not in STAGES:
        raise CheckpointError(f"{path}: unknown stage {stage!r}; known are {', '.join(STAGES)}")
    try:
        config = from_json(STAGE_CONFIGS[stage], metadata["config"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    return StageFile(path, stage, config, metadata, parts={stage: (count_numbers([path]),)})
