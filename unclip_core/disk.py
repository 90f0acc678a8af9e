"""Files on a disk that others share and that may fail: written whole, had by one process at a time, cleared of what a
killed process left half-written, kept through a power cut. A full disk is told with its name, the file and the sizes.

Knows no torch; every room writes its files through here.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

LOOK_AGAIN = 0.5  # seconds between two tries at a lock
FOREIGN_AGE = 24 * 3600.0  # seconds after which a part of a file, of a process that cannot be asked, is a leftover
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# How libraries that drop the number tell a full disk: safetensors, and torch's writer of zip files.
_FULL_WORDS = ("No space left on device", "os error 28", "Disk quota exceeded", "File too large", "os error 27")
_TORCH_WORDS = ("unexpected pos", "PytorchStreamWriter failed")
_PART = re.compile(r"\.unclip-(?P<place>[0-9a-f]{8})-(?P<process>\d+)-\w{8}\.part(\.\w+)?")
# What an operating system answers that has the lock with somebody else; any other answer means that it knows no locks.
_TAKEN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)

log = logging.getLogger(__name__)


# --- Written whole ---------------------------------------------------------------------------------------------------


def part_prefix() -> str:
    """How the hidden names begin that this process gives to what it has not finished: they say whose they are."""
    return f".unclip-{_place()}-{os.getpid()}-"


def temporary_path(folder: Path, suffix: str = "") -> Path:
    """A hidden name in `folder` for a file that is being written. It does not hold the file's own name, which may be as
    long as names can be; `suffix` is for libraries that go by it."""
    return folder / f"{part_prefix()}{secrets.token_hex(4)}.part{suffix}"


@contextlib.contextmanager
def whole_file(path: Path, *, durable: bool = False, size: int | None = None) -> Iterator[Path]:
    """A temporary name beside `path`, with its ending, that takes its place at the end of the with block; if the block
    fails, nothing has happened.

    durable: on the disk when the block ends, also through a power cut. size: bytes that are to be written, for the
    message of a full disk. The folder is made; leftovers of killed processes in it are removed. Raises DiskFull.
    """
    with naming_full_disk(path, size):
        make_folder(path.parent)
        clear_once(path.parent)
        temporary = temporary_path(path.parent, path.suffix)
        try:
            yield temporary
            if durable:
                sync_file(temporary)
            os.replace(temporary, path)
            if durable:
                sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are not there. Raises NotADirectoryError naming a file that has the
    name of one: FileExistsError would read as if the file that is to lie in it were there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(errno.ENOTDIR, "is a file, and would have to be a folder", error.filename) from None


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write UTF-8 text, whole or not at all. Raises DiskFull."""
    with whole_file(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk: without it a rename may outlive a power cut that the bytes do not."""
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk. Windows has no way to ask for it and orders them itself."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):  # a file system that does not offer it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- Leftovers -------------------------------------------------------------------------------------------------------

_cleared: set[str] = set()  # folders that this process has looked through


def clear_once(folder: Path) -> None:
    """`remove_leftovers`, the first time that this process asks for this folder."""
    place = os.path.abspath(folder)
    if place not in _cleared:
        _cleared.add(place)
        remove_leftovers(folder)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove what killed processes left half-written directly in `folder`, and return it.

    A part stays while the process that its name says lives, or while it is younger than FOREIGN_AGE and of another
    machine, whose processes cannot be asked for. What cannot be removed stays.
    """
    removed = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            match = _PART.fullmatch(entry.name)
            if match is None or not _is_abandoned(entry, match["place"], int(match["process"])):
                continue
            path = Path(entry.path)
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(path)
                else:
                    path.unlink()
                removed.append(path)
    if removed:
        log.info("%s: removed %d unfinished files of runs that were killed", folder, len(removed))
    return removed


def _is_abandoned(entry: os.DirEntry, place: str, process: int) -> bool:
    if place == _place():
        return not is_alive(process)
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > FOREIGN_AGE
    except OSError:
        return False


def _place() -> str:
    """8 hex digits for where this process's number means something: the machine, and inside it the container."""
    try:
        inside = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        inside = 0
    return hashlib.sha256(f"{socket.gethostname()} {inside}".encode()).hexdigest()[:8]


def is_alive(process: int) -> bool:
    """Whether a process of this machine runs, whoever owns it."""
    if os.name == "nt":
        return _is_alive_on_windows(process)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _is_alive_on_windows(process: int) -> bool:
    """There os.kill would end the process, whatever the signal."""
    import ctypes

    query, still_active = 0x1000, 259
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # else Python's own calls may change the last error
    handle = kernel.OpenProcess(query, False, process)
    if not handle:
        return ctypes.get_last_error() == 5  # access denied: it is there, and somebody else's
    try:
        code = ctypes.c_ulong()
        return not kernel.GetExitCodeProcess(handle, ctypes.byref(code)) or code.value == still_active
    finally:
        kernel.CloseHandle(handle)


# --- Locks -----------------------------------------------------------------------------------------------------------


class Taken(Exception):
    """Another process has the lock; the message names it."""


@dataclass
class Hold:
    """A lock that is held. remove: whether its file goes when it is given back."""

    remove: bool = False


def lock(file: IO) -> bool:
    """Take the open file for this process, until it is closed; a kill frees it. False if another process has it.

    A file system without locks is taken for free, with a warning: to refuse would be to refuse always.
    """
    try:
        try:
            import fcntl
        except ImportError:  # Windows
            import msvcrt

            file.seek(1 << 20)  # what is locked cannot be read by others there
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        log.warning("%s cannot be locked (%s); do not start the same thing twice", file.name, error.strerror or error)
    return True


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[Hold]:
    """Inside, no other process is inside with the same path. Raises Taken at once if one is. The file stays unless
    `remove` of what is yielded is set: that of a killed process stays too, and is free."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hold = Hold()
    while True:
        with path.open("a+", encoding="utf-8") as file:
            if not lock(file):
                file.seek(0)
                raise Taken(file.read().strip() or "another process")
            if not _is_file_at(path, file):
                continue  # who had it removed it after we opened it
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            try:
                yield hold
            finally:
                if hold.remove and os.name != "nt":
                    with contextlib.suppress(OSError):  # the folder itself may be gone
                        path.unlink()  # while we have it, so that nobody takes what is going
        break
    if hold.remove and os.name == "nt":
        with contextlib.suppress(OSError):  # Windows removes no open file; one that another has taken stays
            path.unlink()


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Inside, no other process is inside with the same path; until then it waits. The empty file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        while not lock(file):
            time.sleep(LOOK_AGAIN)
        yield


def _is_file_at(path: Path, file: IO) -> bool:
    try:
        there, held = os.stat(path), os.fstat(file.fileno())
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)


# --- A full disk -----------------------------------------------------------------------------------------------------


class DiskFull(OSError):
    """There is no room for a file. The message names the file, its disk and the sizes."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextlib.contextmanager
def naming_full_disk(path: Path, size: int | None = None) -> Iterator[None]:
    """What a full disk raises inside, whichever library met it, as a DiskFull about `path`. size: bytes that were to be
    written."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        raise disk_full(path, size, error) from error


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk, a quota or a file system's largest file is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    words = str(error)
    return any(word in words for word in _FULL_WORDS) or (
        isinstance(error, RuntimeError) and any(word in words for word in _TORCH_WORDS)
    )


def disk_full(path: Path, size: int | None = None, error: BaseException | None = None) -> DiskFull:
    """The error to raise for a file that its disk has no room for."""
    number = error.errno if isinstance(error, OSError) and error.errno in FULL else errno.ENOSPC
    place = next(place for place in (path.absolute().parent, *path.absolute().parents) if place.exists())
    wanted = "" if size is None else f" and the file needs {size_text(size)}"
    try:
        free = f"has {size_text(shutil.disk_usage(place).free)} free{wanted}"
    except OSError:
        free = "cannot be asked for its size"
    return DiskFull(
        number,
        f"{path} cannot be written ({os.strerror(number)}): the disk of {_mount(place)} {free}; make room and run the "
        "same command again",
    )


def reserve(path: Path, size: int) -> None:
    """Take the room for a file that is there and will be filled through a memory map: a map into a disk that fills up
    ends the process without a word. Raises DiskFull."""
    with naming_full_disk(path, size), path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            _fallocate(file.fileno(), size)
        elif (free := shutil.disk_usage(path.parent).free) < size:
            raise OSError(errno.ENOSPC, f"{free} bytes free")


def _fallocate(descriptor: int, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in FULL:
            raise  # others: a file system that cannot, where the map will have to do


def size_text(size: float) -> str:
    """Bytes as people write them: 512 bytes, 1.5 MB, 3.2 GB."""
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} GB"


def _mount(place: Path) -> Path:
    """The folder where the disk of `place` begins."""
    with contextlib.suppress(OSError):
        disk = os.stat(place).st_dev
        while place.parent != place and os.stat(place.parent).st_dev == disk:
            place = place.parent
    return place
