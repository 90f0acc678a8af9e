"""What PyTorch's files (.bin, .ckpt, .pt, .pth) say of themselves, read without torch and without running anything.

Both of torch.save's formats: the zip archive, and what was written before PyTorch 1.6. Their pickles are followed with
stand-ins (stand_ins.py), as far as a bounded look goes; the numbers lie beside, and are taken from there.
"""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..texts import shown
from .header import CheckpointError, WeightSet, guarded, remembered, weight_set
from .stand_ins import Code, Found, Listed, Made, Malformed, Storage, follow

_MAX_PICKLE = 8 * 2**20  # bytes: names and shapes alone, some 200 a tensor
_MAX_DIRECTORY = 4 * 2**20  # bytes of a zip archive's directory, some 70 a record
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LOCAL_HEADER = 30  # bytes before a record's name in a zip archive


@dataclass(frozen=True)
class Pickled:
    """What a PyTorch file describes. value: tables, lists, and a Listed for each tensor. places: the byte of the file
    where a storage's numbers begin, by its key; all of them are in the file."""

    value: object
    places: Mapping[str, int]


def read_pickle(path: Path) -> Pickled:
    """Raises CheckpointError for what is no PyTorch file, is cut or damaged, holds code, or costs more time or memory
    than it has bytes."""
    with guarded(path):
        try:
            return _read_archive(path) if _is_archive(path) else _read_legacy(path)
        except Code as error:
            name = shown(str(error)).strip("'")
            raise CheckpointError(f"{path}: holds code ({name}), not weights alone; do not use this file") from None
        except Malformed as error:
            raise CheckpointError(f"{path}: not as PyTorch writes a file of weights ({error}); do not use it") from None


def tensors_by_name(path: Path, value: object) -> dict[str, Listed]:
    """The tensors of a state dict, or of the one that it holds under `state_dict`. path: for the message of a
    CheckpointError, which is raised for a tensor of a kind that is not read."""
    state = _table(_table(value).get("state_dict")) or _table(value)
    for name, item in state.items():
        if isinstance(item, Made) and item.of.text.startswith("torch._utils._rebuild_"):
            raise CheckpointError(
                f"{path}: its tensor {shown(name)} is quantised, sparse, complex or of another kind that is not read "
                f"({shown(item.of.text)}); save it as a plain tensor"
            )
    return {name: item for name, item in state.items() if isinstance(item, Listed) and isinstance(name, str)}


def read_state_dict(path: Path) -> tuple[Pickled, dict[str, Listed]]:
    """A file, and the tensors of its state dict by name. Raises CheckpointError as `read_pickle` does, and for a file
    without any."""
    pickled = read_pickle(path)
    if not (found := tensors_by_name(path, pickled.value)):
        raise CheckpointError(f"{path}: holds no tensors by name; this is not a file of weights")
    return pickled, found


def count_pickled(path: Path) -> WeightSet:
    """A file's state dict as a set of weights. Raises CheckpointError as `read_state_dict` does."""
    return weight_set((path,), _count(path))


def pickle_mentions(path: Path, name: str) -> bool:
    """Whether a file's pickle holds a tensor's name: quicker than to understand the names of all.

    Raises CheckpointError for what is no PyTorch file.
    """
    with guarded(path):
        if not _is_archive(path):
            return name.encode() in _legacy_pickles(path)
        with _open_archive(path) as archive:
            return name.encode() in _record(path, archive, _description(path, archive))


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive: a program with its weights. Raises CheckpointError for what is no
    PyTorch file."""
    with guarded(path):
        if not _is_archive(path):
            return False
        with _open_archive(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _table(value: object) -> dict:
    """A table, or what a stand-in for one holds; an empty one for anything else."""
    value = value.items if isinstance(value, Made) else value
    return value if isinstance(value, dict) else {}


@remembered
def _count(path: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for tensor in set(read_state_dict(path)[1].values()):  # a set: tied weights count once
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.count
    return counts


def _is_archive(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"PK" or start[:1] == b"\x80":
        return start == b"PK"
    size = path.stat().st_size
    raise CheckpointError(f"{path}: not a PyTorch file ({size} bytes, begins with {start!r}); download it again")


# --- The zip archive


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """With a directory of bounded size."""
    with _Bounded(path) as file:
        archive = zipfile.ZipFile(file)
        file.most = None
        yield archive


class _Bounded(io.FileIO):
    """A file of which `most` bytes are read at a time: zipfile reads an archive's directory in one piece."""

    most: int | None = _MAX_DIRECTORY

    def read(self, size: int = -1, /) -> bytes:
        if self.most is None or 0 <= size <= self.most:
            return super().read(size)
        if len(found := super().read(self.most + 1)) > self.most:
            raise CheckpointError(f"{self.name}: lists more records than any file of weights; do not use this file")
        return found


def _read_archive(path: Path) -> Pickled:
    with _open_archive(path) as archive:
        name = _description(path, archive)
        (found,) = follow(io.BytesIO(_record(path, archive, name)))
        folder = name.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist():
            _check_order(path, _record(path, archive, f"{folder}byteorder") == b"little")
        places = {key: _place(path, archive, f"{folder}data/{key}", each) for key, each in found.storages.items()}
    return Pickled(found.value, places)


def _description(path: Path, archive: zipfile.ZipFile) -> str:
    """The name of the record that describes the tensors."""
    name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
    if name is None:
        raise CheckpointError(f"{path}: an archive without data.pkl, so no PyTorch file; download it again")
    return name


def _record(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    """A record that is no tensor's numbers."""
    record = _stored(path, archive.getinfo(name))
    if record.file_size > _MAX_PICKLE:
        raise CheckpointError(f"{path}: its record {shown(name)} has {record.file_size:,} bytes; do not use this file")
    return archive.read(record)


def _place(path: Path, archive: zipfile.ZipFile, name: str, storage: Storage) -> int:
    """The byte where a record's content begins. Raises CheckpointError if it is not all there."""
    if name not in archive.NameToInfo:
        raise _truncated(path, storage)
    record = _stored(path, archive.getinfo(name))
    file = archive.fp
    file.seek(record.header_offset)
    header = file.read(_LOCAL_HEADER)
    # At its end: how long the name and the field behind it are, which pads the content to 64 bytes.
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = record.header_offset + _LOCAL_HEADER + lengths
    if header[:4] != b"PK\x03\x04" or storage.nbytes > min(record.file_size, os.fstat(file.fileno()).st_size - start):
        raise _truncated(path, storage)
    return start


def _stored(path: Path, record: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """The record, unless it is compressed: PyTorch compresses none that we read, and it may unfold to any size."""
    if record.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(
            f"{path}: its record {shown(record.filename)} is compressed, as PyTorch writes none; do not use it"
        )
    return record


# --- The format before it


def _read_legacy(path: Path) -> Pickled:
    """Five pickles, one behind the other: a number, the protocol, the system, the value, the storages' keys. Then each
    storage: how many numbers it has, in 8 bytes, and the numbers."""
    content, size = io.BytesIO(_legacy_pickles(path)), path.stat().st_size
    magic, _, system, found, keys = follow(content, 5)
    if magic.value != _LEGACY_MAGIC or not isinstance(keys.value, list) or not isinstance(system.value, dict):
        raise CheckpointError(f"{path}: a pickle that torch.save did not write; do not use it")
    _check_order(path, system.value.get("little_endian") is True)
    return Pickled(found.value, _legacy_places(path, found, keys.value, content.tell(), size))


def _legacy_places(path: Path, found: Found, keys: list, start: int, size: int) -> dict[str, int]:
    places: dict[str, int] = {}
    with open(path, "rb") as file:
        for key in keys:
            if not isinstance(key, str) or key not in found.storages:
                raise CheckpointError(
                    f"{path}: damaged, it lists a storage that it does not describe; download it again"
                )
            storage = found.storages[key]
            file.seek(start)
            if int.from_bytes(file.read(8), "little") != storage.count or start + 8 + storage.nbytes > size:
                raise _truncated(path, storage)
            places[key] = start + 8
            start += 8 + storage.nbytes
    for key in found.storages.keys() - places.keys():
        raise _truncated(path, found.storages[key])
    return places


def _legacy_pickles(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_MAX_PICKLE)


def _check_order(path: Path, little: bool) -> None:
    if not little:
        raise CheckpointError(f"{path}: written on a computer of the other byte order; save it again on this one")


def _truncated(path: Path, storage: Storage) -> CheckpointError:
    return CheckpointError(
        f"{path}: truncated, the numbers of storage {shown(storage.key)} are not in it; download it again"
    )
