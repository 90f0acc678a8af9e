"""What a safetensors file says about itself, read without torch: a length, a JSON header, then the tensors' bytes."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..config import FORMAT_VERSION, STAGE_CONFIGS, STAGES, from_json

_MAX_HEADER = 100_000_000  # bytes; the format's own limit
_ITEM_BITS = {"BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64}
_ITEM_BITS |= {f"{kind}{bits}": bits for kind in "IU" for bits in (8, 16, 32, 64)}


class CheckpointError(ValueError):
    """A file of weights that cannot be used; the message names file, reason and fix."""


@dataclass(frozen=True)
class StageFile:
    """One stage of a stack on disk. config: the stage's dataclass. metadata: all string pairs of the file."""

    path: Path
    stage: str
    config: object
    metadata: dict[str, str]


def read_header(path: str | os.PathLike) -> tuple[dict[str, str], dict[str, tuple[str, tuple[int, ...]]]]:
    """Metadata and tensors {name: (dtype, shape)} of a safetensors file, checked against the file's size.

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
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from None
    try:
        metadata = header.pop("__metadata__", {})
        tensors, end = {}, 0
        for name, entry in header.items():
            dtype, shape = entry["dtype"], tuple(entry["shape"])
            start, stop = entry["data_offsets"]
            expected = math.prod(shape) * _ITEM_BITS.get(dtype, 0) // 8
            if dtype in _ITEM_BITS and stop - start != expected:
                raise CheckpointError(f"{path}: tensor {name} has {stop - start} bytes, but its shape needs {expected}")
            tensors[name] = (dtype, shape)
            end = max(end, stop)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: not a safetensors file (malformed header); convert it first") from None
    if 8 + length + end != size:
        raise CheckpointError(f"{path}: truncated, {size} of {8 + length + end} bytes; download it again")
    return metadata, tensors


def read_stage(path: str | os.PathLike) -> StageFile:
    """What a native stage file holds. Raises CheckpointError with the reason if it is not one."""
    path = Path(path)
    try:
        stat = path.stat()
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from None
    return _read_stage(path, stat.st_mtime_ns, stat.st_size)


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
    return StageFile(path, stage, config, metadata)
