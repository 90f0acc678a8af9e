"""Memory pages: how much is free, large tensors', which glibc should keep, mapped files', to be dropped once copied."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("comfyui_unclip")

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGE = 2**31 - 1
_TOP_PAD = 64 * 2**20
_NO_LIMIT = 2**60  # or more, in control groups of the first version
_MEMINFO, _GROUPS, _HIERARCHY = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def available_ram() -> int | None:
    """Bytes that this process may take without swapping, and within the limit of the container that it runs in; None
    where the system does not say (Linux does)."""
    try:
        free = int(_field(_MEMINFO, "MemAvailable:")) * 1024
    except (OSError, KeyError, ValueError):
        return None
    for limit in _limits():
        try:
            # Pages of files can be dropped: mapped weights are such.
            files = sum(int(_field(limit.statistics, name)) for name in limit.droppable)
            free = min(free, limit.most - int(limit.used.read_text()) + files)
        except (OSError, KeyError, ValueError):
            continue
    return max(0, free)


@dataclass(frozen=True)
class _Limit:
    most: int
    used: Path
    statistics: Path
    droppable: tuple[str, ...]


@cache
def _limits() -> tuple[_Limit, ...]:
    """The memory limits of this process's control groups, of the second version and of the first."""
    try:
        groups = [line.split(":", 2) for line in _GROUPS.read_text().splitlines()]
    except OSError:
        return ()
    found = []
    for number, controllers, path in groups:
        if number == "0":
            root, names, droppable = _HIERARCHY, ("max", "current"), ("active_file", "inactive_file")
        elif "memory" in controllers.split(","):
            root, names = _HIERARCHY / "memory", ("limit_in_bytes", "usage_in_bytes")
            droppable = ("total_active_file", "total_inactive_file")
        else:
            continue
        inner = root / path.lstrip("/")  # not there where a container sees its own group as the root
        for folder in (inner, *inner.parents):
            if not folder.is_relative_to(root):
                break
            most, used = (folder / f"memory.{name}" for name in names)
            with contextlib.suppress(OSError, ValueError):  # "max" is no number
                if (limit := int(most.read_text())) < _NO_LIMIT:
                    found.append(_Limit(limit, used, folder / "memory.stat", droppable))
    return tuple(found)


def _field(path: Path, name: str) -> str:
    """The number after `name` in a file of lines. Raises KeyError where it has none."""
    with path.open(encoding="ascii") as lines:
        for line in lines:
            first, *rest = line.split()
            if first == name:
                return rest[0]
    raise KeyError(name)


def give_back_pages() -> bool:
    """Return freed memory to the system, after a large network was dropped. Returns whether it could (glibc)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError):
        return False


def keep_pages() -> bool:
    """Tell the C library to reuse memory. Returns whether it could: only glibc has the knobs; elsewhere a no-op.

    By default each big activation is mapped and unmapped anew, and the page faults cost a fifth of a CPU sampling step.
    Peak memory grows by what the largest moment leaves behind, a few per cent.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    kept = all(mallopt(*knob) for knob in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGE), (_M_TOP_PAD, _TOP_PAD)))
    log.info("allocator: %s", "keeps the pages of large tensors" if kept else "left as it is, only glibc has the knobs")
    return kept


def drop_mapped_pages(tensor: Tensor) -> None:
    """Give back the pages of a tensor that lies in a mapped file, which are read again if it is; Linux, else a no-op.

    For weights of which a rearranged copy was made: touched pages would stay with the process as long as the mapping.
    """
    if not sys.platform.startswith("linux") or tensor.device.type != "cpu":
        return
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    # Never memory that no file backs: there, it would be wiped.
    if start < end and _backed_by_a_file(start, end):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def _backed_by_a_file(start: int, end: int) -> bool:
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                span, permissions, _, _, inode, *_ = line.split()
                low, high = (int(edge, 16) for edge in span.split("-"))
                if low <= start and end <= high:
                    return inode != "0" and permissions.endswith("p")
    except (OSError, ValueError):
        pass
    return False
