"""Memory pages: how much is free, large tensors', which glibc should keep, mapped files', to be dropped once copied."""

from __future__ import annotations

import ctypes
import logging
import mmap
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("comfyui_unclip")

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGE = 2**31 - 1
_TOP_PAD = 64 * 2**20


def available_ram() -> int | None:
    """Bytes of memory that programs may take without swapping; None where the system does not say (Linux does)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


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
