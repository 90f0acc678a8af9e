"""Ctrl-C and SIGTERM as a question that a long run may ask: has anybody wanted it to stop?"""

from __future__ import annotations

import contextlib
import os
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
    """Inside, the first Ctrl-C or SIGTERM is noted only; a Ctrl-C after it interrupts at once.

    A second SIGTERM does not: a batch system sends it to all processes of a job, and torchrun sends it on.
    Forked workers take the handlers along: a Ctrl-C, which reaches all of a terminal's processes, is the first one's
    business; a SIGTERM ends them, as their pools expect.
    """
    asked, owner = Asked(), os.getpid()

    def note(number: int, frame: object) -> None:
        if os.getpid() != owner:
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if asked.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.number = asked.number or number

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
