"""Asynchronous node code, run from synchronous code. No event loop exists until a node needs one.

The loop runs only while something waits for it, so Ctrl-C acts inside a node at once (asyncio.run would hold it back).
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable
from typing import Any

_LOOK = 0.1  # seconds of waiting after which others are asked whether to go on


class AsyncCalls:
    """Starts coroutines and waits for them."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task] = set()

    def start(self, value: Any) -> Any:
        """A coroutine as a task that ran up to its first wait, or its result if that was its end; other values as they
        are. Raises what the coroutine raised."""
        if not inspect.iscoroutine(value):
            return value
        task = self._open(value).create_task(value)
        self._tasks.add(task)
        self.turn()
        return self.result(task)

    def turn(self) -> None:
        """Let every task run until it waits for something."""
        if self._tasks and self._loop is not None:
            self._loop.run_until_complete(asyncio.sleep(0))

    def wait(self, values: Iterable[Any]) -> None:
        """Return when one of the unfinished tasks among `values` is done, or after a moment."""
        pending = [value for value in values if is_pending(value)]
        if pending and self._loop is not None:
            self._loop.run_until_complete(asyncio.wait(pending, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED))

    def result(self, value: Any) -> Any:
        """The result of a finished task, or raise what it raised; other values, unfinished tasks too, as they are."""
        if not isinstance(value, asyncio.Task) or is_pending(value):
            return value
        self._tasks.discard(value)
        return value.result()

    def resolve(self, values: list[Any]) -> list[Any]:
        """The values with every coroutine replaced by its result; coroutines run concurrently."""
        values = [self.start(value) for value in values]
        while any(map(is_pending, values)):
            self.wait(values)
        return [self.result(value) for value in values]

    def close(self) -> None:
        """Cancel what still runs. The loop is made anew when needed."""
        if self._loop is None:
            return
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._tasks.clear()
        self._loop.close()
        self._loop = None

    def _open(self, coroutine: Any) -> asyncio.AbstractEventLoop:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            coroutine.close()
            raise RuntimeError("an asynchronous node cannot run inside an event loop; use asyncio.to_thread")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop


def is_pending(value: Any) -> bool:
    """Whether `value` is a task that is not done."""
    return isinstance(value, asyncio.Task) and not value.done()
