"""Keeps glibc from giving every large tensor's pages back to the system.

By default each big activation is mapped and unmapped anew, and the page faults cost a fifth of a CPU sampling step.
Peak memory grows by what the largest moment leaves behind, a few per cent.
"""

from __future__ import annotations

import ctypes
import logging
import sys

log = logging.getLogger("comfyui_unclip")

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGE = 2**31 - 1
_TOP_PAD = 64 * 2**20


def give_back_pages() -> bool:
    """Give the system what freed tensors left behind, after a large network went. Returns whether it could (glibc)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError):
        return False


def keep_pages() -> bool:
    """Tell the C library to reuse memory. Returns whether it could: only glibc has the knobs; elsewhere a no-op."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    kept = all(mallopt(*knob) for knob in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGE), (_M_TOP_PAD, _TOP_PAD)))
    log.info("allocator: %s", "keeps the pages of large tensors" if kept else "left as it is, only glibc has the knobs")
    return kept
