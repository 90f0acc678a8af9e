"""How a command is ended: Ctrl-C, SIGTERM and a closing terminal, at once or as a question that a long run asks."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Ended:
    """By which signal the process was told to end, 0 for none."""

    number: int = 0


@contextlib.contextmanager
def ended_as_by_ctrl_c() -> Iterator[Ended]:
    """Inside, SIGTERM and SIGHUP do what Ctrl-C does, so that temporary folders are removed and locks given back.

    A signal that whoever started the process made it ignore (nohup) stays ignored. Forked workers end at once, as their
    pools expect. Only in the main thread; elsewhere nothing changes.
    """
    ended, owner = Ended(), os.getpid()

    def end(number: int, frame: object) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        ended.number = number
        interrupt = signal.getsignal(signal.SIGINT)
        if callable(interrupt):  # Python's own, or that of a loop that first brings its tasks to an end
            interrupt(signal.SIGINT, frame)
        else:  # a shell's background job ignores Ctrl-C
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield ended
        return
    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    taken = [number for number in wanted if signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield ended
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@dataclass
class Asked:
    """number: the signal's, 0 while there was none. heard: whether somebody has asked for it yet."""

    number: int = 0
    heard: bool = False

    def __call__(self) -> bool:
        """Whether the run is to stop. From the first question on, signals wait for the next one."""
        self.heard = True
        return bool(self.number)


@contextlib.contextmanager
def asked_to_stop() -> Iterator[Asked]:
    """Inside, once the work asks, the first Ctrl-C or SIGTERM is noted only; a Ctrl-C after it interrupts at once.

    Before, while data is made and read, there is nothing to save: signals do what they did outside, unless that was not
    Python's. A second SIGTERM never interrupts: a batch system sends it to all processes of a job, and torchrun sends
    it on.

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
        if not asked.heard and callable(outside := before[number]):
            outside(number, frame)
        elif asked.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.number = asked.number or number

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
