"""What a PyTorch pickle (.bin, .ckpt) says about itself, read without torch and without running anything in it.

Its instructions are followed with stand-ins (stand_ins.py), as far as a bounded look goes. Loading proper goes through
`torch.load(weights_only=True)`, and only for a file that passes here.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..texts import shown
from .header import CheckpointError, WeightSet, guarded, remembered, weight_set
from .stand_ins import STORAGES, Code, Found, Listed, Malformed, Storage, follow

# All that a state dict needs.
_HARMLESS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.nn.parameter.Parameter",
    "torch.Size",
    *(f"torch.{name}" for name in STORAGES),
}
# What training keeps beside it, and torch.load lets through.
_BESIDE = {"collections.Counter", "builtins.set", "builtins.complex", "_codecs.encode", "torch.device"}
_MAX_PICKLE = 8 * 2**20  # bytes: names and shapes alone, some 200 a tensor; the numbers lie in records of their own
_MAX_DIRECTORY = 4 * 2**20  # bytes of a zip archive's directory, some 70 a record
_LEGACY_PICKLES = 4  # magic number, protocol, system, object: what matters of the format before zip archives
_ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def count_pickled(path: Path) -> WeightSet:
    """A pickled state dict as a set of weights. Raises CheckpointError for one that is cut, damaged or holds code."""
    return weight_set((path,), _count(path))


def pickle_mentions(path: Path, name: str) -> bool:
    """Whether a pickled state dict holds a tensor's name: quicker than to understand the names of all.

    Raises CheckpointError for what is no PyTorch file.
    """
    with guarded(path), _opened(path) as content:
        return name.encode() in content.pickled.getvalue()


def list_pickled(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names, dtypes (safetensors' words) and shapes of a pickled state dict's tensors, those under `state_dict` if it
    has that key. Raises CheckpointError for one that is cut, damaged or holds code."""
    with guarded(path):
        last = _followed(path, _HARMLESS.__contains__).value
    state = last.get("state_dict", last) if isinstance(last, Mapping) else {}
    state = state if isinstance(state, Mapping) else {}
    found = {str(name): (item.dtype, item.shape) for name, item in state.items() if isinstance(item, Listed)}
    if not found:
        raise CheckpointError(f"{path}: holds no tensors by name; this is not a file of weights")
    return found


def check_pickle(path: Path) -> None:
    """Raise CheckpointError for a file that torch.load should not be given: cut, damaged, with code in it, or made to
    cost more time or memory than it has bytes."""
    with guarded(path):
        _followed(path, lambda name: name in _HARMLESS or name in _BESIDE)


def follow_archive(path: Path, allowed: Callable[[str], bool]) -> tuple[Found, str]:
    """What the `data.pkl` of an archive makes, and the folder that it lies in, "name/". allowed: as for `follow`.
    Raises CheckpointError."""
    with open_archive(path) as archive:
        name = _description(path, archive)
    return _followed(path, allowed), name.removesuffix("data.pkl")


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive: a program with its weights."""
    with guarded(path):
        if not zipfile.is_zipfile(path):
            return False
        with open_archive(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive with a directory of bounded size, to read records from. Raises CheckpointError."""
    with _Bounded(path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, EOFError, NotImplementedError):
            raise CheckpointError(f"{path}: truncated or damaged; download it again") from None
        file.most = None
        yield archive


def read_record(path: Path, archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """A record of the archive. Raises CheckpointError for one of more than `most` bytes and for a compressed one,
    which PyTorch does not write and which may hold any size."""
    record = archive.getinfo(name)
    if record.compress_type != zipfile.ZIP_STORED or record.file_size > most:
        reason = f"{record.file_size:,} bytes" if record.compress_type == zipfile.ZIP_STORED else "compressed"
        raise CheckpointError(f"{path}: its record {shown(name)} is {reason}, as PyTorch writes none; do not use it")
    try:
        return archive.read(record)
    except (zipfile.BadZipFile, EOFError, RuntimeError):
        raise CheckpointError(f"{path}: truncated or damaged; download it again") from None


class _Bounded(io.FileIO):
    """A file of which `most` bytes are read at a time: zipfile reads an archive's directory in one piece."""

    most: int | None = _MAX_DIRECTORY

    def read(self, size: int = -1, /) -> bytes:
        if self.most is None or 0 <= size <= self.most:
            return super().read(size)
        if len(found := super().read(self.most + 1)) > self.most:
            raise CheckpointError(f"{self.name}: lists more records than any file of weights; do not use this file")
        return found


@remembered
def _count(path: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for storage in _followed(path, _HARMLESS.__contains__).storages.values():  # tied weights share one
        counts[storage.dtype] = counts.get(storage.dtype, 0) + storage.count
    if not counts:
        raise CheckpointError(f"{path}: no tensors in it; this is not a file of weights")
    return counts


@dataclass
class _Content:
    """The pickles that describe the tensors of a file: `count` of them, one behind the other. room: the bytes that the
    tensors' numbers may take, by storage in an archive, else of all."""

    pickled: io.BytesIO
    count: int
    room: Callable[[str], int] | int


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Content]:
    """Raises CheckpointError for what is no PyTorch file."""
    with open(path, "rb") as file:
        start = file.read(2)
        if start[:1] == b"\x80":
            file.seek(0)
            size = path.stat().st_size
            yield _Content(io.BytesIO(file.read(_MAX_PICKLE)), _LEGACY_PICKLES, size)
            return
    if start != b"PK":
        size = path.stat().st_size
        raise CheckpointError(f"{path}: not a PyTorch file ({size} bytes, begins with {start!r}); download it again")
    with open_archive(path) as archive:
        name = _description(path, archive)
        data = read_record(path, archive, name, _MAX_PICKLE)
        folder = name.removesuffix(".pkl")
        yield _Content(io.BytesIO(data), 1, lambda key: archive.getinfo(f"{folder}/{key}").file_size)


def _description(path: Path, archive: zipfile.ZipFile) -> str:
    """The name of the record that describes the tensors."""
    name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
    if name is None:
        raise CheckpointError(f"{path}: an archive without data.pkl, so no PyTorch file; download it again")
    return name


def _followed(path: Path, allowed: Callable[[str], bool]) -> Found:
    """What the file makes, the last of its pickles, with the storages of all. Raises CheckpointError."""
    with _opened(path) as content:
        storages: dict[str, Storage] = {}
        try:
            for _ in range(content.count):
                found = follow(content.pickled, allowed)
                storages |= found.storages
        except Code as error:
            name = shown(str(error)).strip("'")
            raise CheckpointError(f"{path}: holds code ({name}), not weights alone; do not use this file") from None
        except Malformed as error:
            raise CheckpointError(f"{path}: not as PyTorch writes a file of weights ({error}); do not use it") from None
        # Whatever cut or damaged bytes lead to.
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise CheckpointError(f"{path}: truncated or not a PyTorch file; download it again") from None
        _check_room(path, storages, content.room)
    return Found(found.value, storages)


def _check_room(path: Path, storages: Mapping[str, Storage], room: Callable[[str], int] | int) -> None:
    """Whether the file has the bytes of the numbers that it describes."""
    needed = {key: storage.count * _ITEM_BYTES[storage.dtype] for key, storage in storages.items()}
    if callable(room):
        try:
            short = next((key for key, size in needed.items() if room(key) < size), None)
        except KeyError as error:
            short = str(error)
    else:
        short = None if sum(needed.values()) <= room else "0"
    if short is not None:
        raise CheckpointError(
            f"{path}: truncated, the numbers of storage {shown(short)} are not in it; download it again"
        )
