"""What a safetensors file says about itself, read without torch: a length, a JSON header, then the tensors' bytes."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..config import FORMAT_VERSION, STAGE_CONFIGS, STAGES, from_json
from ..texts import one_line, printable, shown

_MAX_HEADER = 100_000_000  # bytes; the format's own limit
_ITEM_BITS = {"BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64}
TOKENIZER = ".tokenizer.json"  # ending of a stage's words, beside its file
SHORT_NAMES = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}
_ITEM_BITS |= {f"{kind}{bits}": bits for kind in "IU" for bits in (8, 16, 32, 64)}
NATIVE = "native"  # the layout of our own files
# A tensor that only a single file of Stable unCLIP has: it reads the image embedding in a class's place.
SINGLE_FILE_MARK = "model.diffusion_model.label_emb.0.0.weight"
_QUOTED = 300  # characters of what a message quotes from a stranger's file
Found = TypeVar("Found")


class CheckpointError(ValueError):
    """A file of weights that cannot be used; the message names file, reason and fix, in one line that can be shown
    whatever the file's own texts hold."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Unreadable(CheckpointError):
    """The system does not give the file out: nothing is known about what is in it."""


@contextlib.contextmanager
def guarded(path: str | os.PathLike) -> Iterator[None]:
    """Reading `path`, whatever bytes are in it: anything that goes wrong in the block becomes a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        raise _unreadable(error.filename or path, error) from None
    # One damaged file must not take every other model with it, so nothing that a stranger's bytes cause gets through.
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(str(error), _QUOTED)}"
        raise CheckpointError(f"{path}: damaged, or not what its name says ({reason}); download it again") from None


def remembered(read: Callable[[Path], Found]) -> Callable[[str | os.PathLike], Found]:
    """Make `read(path)` read a file once for each state of it (size and time); a CheckpointError is remembered too.

    For the whole process: the catalog is asked several times for every run, and the Hugging Face cache that it looks
    into is full of other models. Not bounded: there is one entry for each file on the search path, most of them an
    error's text. What cannot be opened is tried again. The results are shared, so nobody may change them.
    """
    known: dict[Path, tuple[tuple[int, int], Found | None, str]] = {}

    @functools.wraps(read)
    def read_once(path: str | os.PathLike) -> Found:
        path = Path(path)
        state = stamp(path)
        before = known.get(path)
        if before is None or before[0] != state:
            found, refusal = None, ""
            try:
                with guarded(path):
                    found = read(path)
            except Unreadable:
                raise
            except CheckpointError as error:
                refusal = str(error)
            before = known[path] = (state, found, refusal)
        if before[2]:
            raise CheckpointError(before[2])
        return before[1]

    return read_once


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
    tokenizer: the file of words of a decoder that reads captions by a text encoder of its own.
    """

    path: Path
    stage: str
    config: object
    metadata: dict[str, str]
    layout: str = NATIVE
    parts: dict[str, tuple[WeightSet, ...]] = field(default_factory=dict)
    tokenizer: Path | None = None

    def weights(self, dtype: str | None = None) -> dict[str, WeightSet]:
        """One set per part: the one stored as `dtype` where there is such a one, else the default."""
        return {name: next((s for s in sets if s.dtype == dtype), sets[0]) for name, sets in self.parts.items()}

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the default sets."""
        return tuple(path for weights in self.weights().values() for path in weights.files)

    @property
    def all_files(self) -> tuple[Path, ...]:
        """The files of all sets, and the tokenizer's, each once."""
        weights = dict.fromkeys(path for sets in self.parts.values() for one in sets for path in one.files)
        return (*weights, *((self.tokenizer,) if self.tokenizer is not None else ()))

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
    with guarded(path):
        return _parse(path, *_read_bytes(path))


def _read_bytes(path: Path) -> tuple[int, bytes]:
    """The file's size, and its header as it stands there."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            # A header longer than the file is what a pickle, an HTML page or a cut download looks like.
            raise CheckpointError(f"{path}: not a complete safetensors file ({size} bytes); download it again")
        return size, file.read(length)


def _parse(path: Path, size: int, raw: bytes) -> tuple[dict[str, str], dict[str, TensorEntry]]:
    length = len(raw)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: not a safetensors file (its header is not JSON); convert it first") from None
    malformed = f"{path}: not a safetensors file (malformed header); convert it first"
    if not isinstance(header, dict):
        raise CheckpointError(malformed)
    metadata = header.pop("__metadata__", None) or {}
    if not _is_metadata(metadata):
        raise CheckpointError(f"{path}: not a safetensors file (its __metadata__ is no table of texts); convert it")
    tensors, end = {}, 0
    for name, item in header.items():
        if (entry := _entry(name, item, 8 + length)) is None:
            raise CheckpointError(malformed)
        count, held = entry.stop - entry.start, math.prod(entry.shape)
        bits = _ITEM_BITS.get(entry.dtype)
        # Of a type that is not known, a number has at least one bit.
        if held > 8 * count if bits is None else held * bits // 8 != count:
            needs = "another number" if bits is None else shown(held * bits // 8)
            raise CheckpointError(f"{path}: tensor {name} has {shown(count)} bytes, but its shape needs {needs}")
        tensors[name] = entry
        end = max(end, entry.stop)
    end = max(end, 8 + length)
    if end != size:
        raise CheckpointError(f"{path}: truncated, {size} of {shown(end)} bytes; download it again")
    return metadata, tensors


def _entry(name: str, item: Any, offset: int) -> TensorEntry | None:
    """A tensor as the header describes it, or None for what is no description."""
    item = item if isinstance(item, dict) else {}
    dtype, shape, place = item.get("dtype"), item.get("shape"), item.get("data_offsets")
    if not _is_text(name) or not isinstance(dtype, str) or not _are_counts(shape) or not _are_counts(place):
        return None
    if len(place) != 2 or place[0] > place[1]:
        return None
    return TensorEntry(dtype, tuple(shape), offset + place[0], offset + place[1])


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _is_metadata(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, (*value, *value.values())))


def _is_text(value: Any) -> bool:
    """Whether it is a str that can be written out: JSON's escapes can spell half a character."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@remembered
def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, shared: not to be changed. Raises CheckpointError for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a JSON file ({one_line(str(error), _QUOTED)}); download it again") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: not a JSON object; download it again")
    return found


def count_numbers(paths: Iterable[Path]) -> WeightSet:
    """The safetensors files as one set. Raises CheckpointError for what is not a complete file."""
    paths = tuple(paths)
    counts: dict[str, int] = {}
    for path in paths:
        for dtype, count in _count(path).items():
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


def _unreadable(path: str | os.PathLike, error: OSError) -> Unreadable:
    fix = "check the path and its permissions"
    if isinstance(error, FileNotFoundError):  # deleted or moved since the model was listed
        fix = "check the path, put the file back, or get the model again with `unclip pull`"
    return Unreadable(f"{path}: cannot be read ({error.strerror or error}); {fix}")


@remembered
def _count(path: Path) -> dict[str, int]:
    return _counts(read_entries(path)[1])


def _counts(entries: dict[str, TensorEntry]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for entry in entries.values():
        counts[entry.dtype] = counts.get(entry.dtype, 0) + math.prod(entry.shape)
    return counts


def read_stage(path: str | os.PathLike) -> StageFile:
    """What a native stage file holds. Raises CheckpointError with the reason if it is not one."""
    found = _read_stage(path)
    if isinstance(found, StageFile):
        return found
    raise CheckpointError(found.reason)


def is_single_file(path: str | os.PathLike) -> bool:
    """Whether a safetensors file holds all of a Stable unCLIP, by SINGLE_FILE_MARK. Raises CheckpointError for what is
    not a complete safetensors file."""
    found = _read_stage(path)
    return isinstance(found, _NotNative) and found.single_file


@dataclass(frozen=True)
class _NotNative:
    """A safetensors file of others. single_file: whether it has SINGLE_FILE_MARK."""

    reason: str
    single_file: bool


@remembered
def _read_stage(path: Path) -> StageFile | _NotNative:
    size, raw = _read_bytes(path)
    other = f"{path}: not an unCLIP stage (its metadata lacks format_version, stage or config); use `unclip convert`"
    not_native = _NotNative(other, f'"{SINGLE_FILE_MARK}"'.encode() in raw)
    # Most files on the search path are other people's, with megabytes of names that need not be understood.
    if path.stem not in STAGES and b'"format_version"' not in raw:
        return not_native
    metadata, entries = _parse(path, size, raw)
    version, stage = metadata.get("format_version"), metadata.get("stage")
    if version is None or stage is None or "config" not in metadata:
        return not_native
    if version != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{path}: format version {one_line(version, _QUOTED)}, but this comfyui-unclip reads {FORMAT_VERSION}; "
            "update comfyui-unclip"
        )
    if stage not in STAGES:
        raise CheckpointError(f"{path}: unknown stage {shown(stage)}; known are {', '.join(STAGES)}")
    try:
        config = from_json(STAGE_CONFIGS[stage], metadata["config"])
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(f"{path}: {one_line(str(error), _QUOTED)}") from None
    parts = {stage: (weight_set((path,), _counts(entries)),)}
    tokenizer = path.with_suffix(TOKENIZER) if getattr(config, "multilingual", None) is not None else None
    return StageFile(path, stage, config, metadata, parts=parts, tokenizer=tokenizer)
