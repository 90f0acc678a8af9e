"""Files that one process has at a time. A kill frees them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

LOOK_AGAIN = 0.5  # seconds


def lock(file: IO) -> None:
    """Take the open file for this process, freed when it is closed. Raises OSError if another has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        file.seek(1 << 20)  # what is locked cannot be read by others there
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Inside, no other process is inside with the same path; until then it waits. The empty file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        while True:
            try:
                lock(file)
                break
            except (BlockingIOError, PermissionError):  # the second is what Windows says
                time.sleep(LOOK_AGAIN)
        yield
