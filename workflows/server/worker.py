"""The queue of prompts, and the one thread that runs them."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Collection
from typing import Any

from ...nodes.host import Interrupted, LocalHost
from ...unclip_core.disk import size_text
from ..engine.session import Session
from .job import CANCELLED, COMPLETED, FAILED, RUNNING, Job
from .pages import Pages
from .run_messages import RunMessages

_LOG = logging.getLogger(__name__)
# What is remembered: bytes in memory of the prompts that wait, and of the jobs that are over; their numbers. A graph of
# fifty nodes takes some 100 kB.
MAX_MEMORY = 256 << 20
_MAX_WAITING, _HISTORY = 5000, 500
_PATIENCE = 3.0  # seconds that the end waits for a node to notice it


class QueueFull(Exception):
    """No more prompts can wait; the message says how many do."""


class Worker:
    """Runs jobs one after another, in the order of their numbers. All methods may be called from any thread."""

    def __init__(self, classes: dict[str, type], host: LocalHost, pages: Pages):
        self._session = Session(host, classes)
        self._host = host
        self._pages = pages
        self._waiting: list[tuple[float, int, Job]] = []
        self._arrivals = itertools.count()
        self._numbers = itertools.count(1)
        self._running: Job | None = None
        self._messages: RunMessages | None = None
        self._warned: set[tuple[str, str]] = set()
        self._ended: dict[str, Job] = {}  # oldest first
        self._changed = threading.Condition()
        self._stopping = self._forget = False
        self._thread = threading.Thread(target=self._work, name="unclip-worker", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """Cancel what runs, and wait a moment for it. A node that does not listen does not hold up the end."""
        with self._changed:
            self._stopping = True
            if self._running:
                self._running.cancel.set()
            self._changed.notify_all()
        self._thread.join(_PATIENCE)

    def next_number(self, front: bool = False) -> float:
        """A place in the queue: at its end, or before all."""
        number = next(self._numbers)
        return float(-number if front else number)

    def add(self, job: Job) -> None:
        """Queue a job. Raises QueueFull. One that finds nobody waiting is always taken."""
        with self._changed:
            count, memory = len(self._waiting), sum(waiting.memory for _, _, waiting in self._waiting)
            if count and (count >= _MAX_WAITING or memory + job.memory > MAX_MEMORY):
                raise QueueFull(
                    f"{count} prompts of {size_text(memory)} wait, this one has {size_text(job.memory)}, and at most "
                    f"{_MAX_WAITING} of {size_text(MAX_MEMORY)} can; send it again when some are done"
                )
            heapq.heappush(self._waiting, (job.number, next(self._arrivals), job))
            self._changed.notify_all()
        self._tell_status()

    def cancel_running(self, job_id: str | None = None) -> bool:
        """Cancel the job that runs, or only if it is this one. Asking twice does not reach the job after it."""
        with self._changed:
            running = self._running
            if running is None or job_id not in (None, running.id):
                return False
            running.cancel.set()
            return True

    def remove(self, ids: Collection[str] | None = None) -> None:
        """Take waiting jobs out of the queue, None: all."""
        with self._changed:
            self._waiting = [entry for entry in self._waiting if ids is not None and entry[2].id not in ids]
            heapq.heapify(self._waiting)
        self._tell_status()

    def forget(self, ids: Collection[str] | None = None) -> None:
        """Take ended jobs out of the history, None: all."""
        with self._changed:
            self._ended = {key: job for key, job in self._ended.items() if ids is not None and key not in ids}

    def free(self) -> None:
        """Let go of models and results before the next job, or now if none runs."""
        with self._changed:
            self._forget = True
            self._changed.notify_all()

    def running(self) -> list[Job]:
        """The job that runs, if any."""
        with self._changed:
            return [self._running] if self._running else []

    def waiting(self) -> list[Job]:
        """The jobs that wait, the next first."""
        with self._changed:
            return [job for _, _, job in sorted(self._waiting, key=lambda entry: entry[:2])]

    def ended(self) -> list[Job]:
        """The jobs that are over, the oldest first."""
        with self._changed:
            return list(self._ended.values())

    def status(self) -> dict[str, Any]:
        """How many jobs are left, as the page asks for it."""
        with self._changed:
            left = len(self._waiting) + (self._running is not None)
        return {"exec_info": {"queue_remaining": left}}

    def greet(self, client: str) -> None:
        """What a page that comes, or comes back, has to know."""
        self._pages.send(client, "status", {"status": self.status(), "sid": client})
        with self._changed:
            job, messages = self._running, self._messages
        if job and messages and job.client == client and messages.node:
            self._pages.send(client, "executing", {"node": messages.node, "prompt_id": job.id})

    # --- In the thread -------------------------------------------------------------------------------------------

    def _work(self) -> None:
        with contextlib.suppress(ImportError):
            import torch  # noqa: F401 - takes seconds: while the page loads is a good time
        while (job := self._next()) is not None:
            self._tell_status()
            self._messages = messages = RunMessages(job, self._pages, self._warned)
            status = self._run(job, messages)
            job.measure()
            with self._changed:  # first in the history, then told: whoever hears of the end may ask at once
                job.status, job.ended = status, time.time()
                self._running = self._messages = None
                self._ended[job.id] = job
                self._forget_oldest()
            messages.ended(status == COMPLETED)
            self._tell_status()

    def _forget_oldest(self) -> None:
        """Keep the history within its bounds; the last job stays whatever its size."""
        memory = sum(job.memory for job in self._ended.values())
        while len(self._ended) > 1 and (len(self._ended) > _HISTORY or memory > MAX_MEMORY):
            memory -= self._ended.pop(next(iter(self._ended))).memory

    def _next(self) -> Job | None:
        """The next job, waited for. None at the end."""
        while True:
            with self._changed:
                while not (self._waiting or self._stopping or self._forget):
                    self._changed.wait()
                if self._stopping:
                    return None
                forget, self._forget = self._forget, False
                if not forget:
                    self._running = job = heapq.heappop(self._waiting)[2]
                    job.status, job.started = RUNNING, time.time()
                    return job
            self._session.clear()

    def _run(self, job: Job, messages: RunMessages) -> str:
        """Run one job and return its final status."""
        self._host.cancel = job.cancel
        try:
            outcome = self._session.run(
                job.prompt, extra_pnginfo=job.pnginfo, outputs=job.outputs, on_event=messages.on_event
            )
            return COMPLETED if outcome.error is None else FAILED
        except Interrupted:
            return CANCELLED
        except BaseException as error:  # the thread outlives whatever happens to one job
            _LOG.exception("prompt %s", job.id)
            messages.failed(error)
            return FAILED
        finally:
            self._host.cancel = None

    def _tell_status(self) -> None:
        self._pages.send(None, "status", {"status": self.status()})
