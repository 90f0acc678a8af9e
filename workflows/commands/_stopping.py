"""Ctrl-C and SIGTERM as a question that a long run may ask: has anybody wanted it to stop?"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Asked:
    """number: the signal's, 0 while nobody has asked."""

    number: int = 0

    def __call__(self) -> bool:
        """Whether somebody has."""
        return bool(self.number)


@contextlib.contextmanager
def asked_to_stop() -> Iterator[Asked]:
    """Inside, the first Ctrl-C or SIGTERM is noted only; a second one interrupts at once."""
    asked = Asked()

    def note(number: int, frame: object) -> None:
        if asked.number:
            raise KeyboardInterrupt
        asked.number = number

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
