"""Rows spread over a Ray cluster: an actor per GPU, or per group of cores, holds the models and runs rows.

Files travel back with the result and are written here, so that machines need no common folder, and a row whose worker
died has left nothing behind: it is given to another worker, and counted once. The package must be installed on every
machine.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...unclip_core.disk import part_prefix
from ..document.graph import Problem, WorkflowError
from ..engine.node_packs import known_classes
from ..rows.prepared import Prepared
from ..rows.reporters import CollectingReporter, Reporter
from ..rows.results import RowResult
from .options import Options
from .received_files import row_tag, save_file

MAX_TRIES = 3  # of a row whose worker dies: it may be the row that kills it
_CORES = 4  # of a worker on a cluster without GPUs
_END_TIMEOUT = 10.0  # seconds in which workers remove their files at the end
_KEPT_ROWS = 64  # whose files a worker keeps: equal rows share one file, see Session's cache


class LostWorker(RuntimeError):
    """A row's workers died again and again."""


def load_ray() -> Any:
    """The package. Raises WorkflowError with the way to get it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        message = "--ray needs the package ray; install it with: pip install 'unclip[ray]'"
        raise WorkflowError([Problem("invalid_option", message)]) from None
    return ray


class Worker:
    """What runs inside an actor: a Session of its own, and an output folder that nobody else sees."""

    def __init__(self, prepared: Prepared, options: Options, cores: int):
        import torch

        from .local import LocalRunner, new_session

        if cores:
            torch.set_num_threads(cores)
        self._folder = tempfile.TemporaryDirectory(prefix=part_prefix(), suffix=".part")
        own = replace(prepared, classes=known_classes(options.nodes))
        options = replace(options, output=Path(self._folder.name))
        self._reporter = CollectingReporter(options.output)
        self._runner = LocalRunner(own, new_session(own, options), self._reporter)
        self._rows: deque[list[Path]] = deque()

    def ready(self) -> int:
        """Answers once the worker exists; its process id."""
        return os.getpid()

    def run(self, number: int) -> tuple[RowResult, list[bytes], list[str]]:
        """Run one row. Returns its result, the contents of its outputs, and the warnings."""
        self._reporter.warnings.clear()
        result = self._runner.run_row(number)
        paths = [Path(self._folder.name) / output for output in result.outputs]
        contents = [path.read_bytes() for path in paths]
        self._rows.append(paths)
        if len(self._rows) > _KEPT_ROWS:
            old = set(self._rows.popleft()) - {path for row in self._rows for path in row}
            for path in old:
                path.unlink(missing_ok=True)
        return result, contents, list(self._reporter.warnings)

    def end(self) -> None:
        """Remove the files that were kept: a worker is killed, and would leave them behind."""
        self._folder.cleanup()


class RayRunner:
    """Runs rows on the cluster at `options.ray`; "local" starts one on this machine. Rows end in any order."""

    def __init__(self, prepared: Prepared, options: Options, reporter: Reporter):
        ray = self._ray = load_ray()
        self._prepared, self._options, self._reporter = prepared, options, reporter
        self._own_cluster = not ray.is_initialized()
        if self._own_cluster:
            try:
                ray.init(
                    address=options.ray, include_dashboard=False, log_to_driver=False, configure_logging=False
                ) if options.ray == "local" else ray.init(address=options.ray, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                reason = " ".join(str(error).split())
                message = f"--ray {options.ray}: no cluster answers there ({reason}); start it, or check the address"
                raise WorkflowError([Problem("invalid_option", message)]) from None
        self.count, self._resources = worker_plan(ray.cluster_resources(), options.workers)
        cores = int(self._resources.get("num_cpus", 0))
        shipped = replace(prepared, classes={})  # a worker loads its own
        own = replace(options, nodes=tuple(path.absolute() for path in options.nodes))
        actor = ray.remote(**self._resources, max_restarts=0)(Worker)
        self._start = lambda: actor.remote(shipped, own, cores)
        self._busy: dict[Any, tuple[Any, int | None]] = {}  # what is awaited -> (worker, row; None: it starts)
        self._tries: dict[int, int] = {}
        self._said: set[str] = set()
        self.pids: dict[Any, int] = {}
        self.failure: Exception | None = None

    def run(self, numbers: Iterable[int]) -> Iterator[RowResult]:
        """Run the rows; neighbours in the order, which share results, go to the same worker as far as possible."""
        waiting = RowShares(list(numbers), self.count)
        starts_failed = 0
        for _ in range(min(self.count, len(waiting))):
            self._begin_worker()
        while self._busy:
            done, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=1.0)
            for reference in done:
                worker, number = self._busy.pop(reference)
                try:
                    answer = self._ray.get(reference)
                except self._ray.exceptions.RayTaskError as error:
                    if number is None:
                        raise LostWorker(f"a worker could not start: {_last_line(error)}") from None
                    yield self._failed(number, _last_line(error), error)
                except self._ray.exceptions.RayError as error:  # it died, or the machine that kept its answer
                    self.pids.pop(worker, None)
                    self._ray.kill(worker)
                    if number is None:
                        starts_failed += 1
                        if starts_failed > self.count + MAX_TRIES:
                            raise LostWorker(f"no worker starts: {' '.join(str(error).split())}") from None
                    elif lost := self._retry(number, waiting):
                        yield lost
                    if waiting or self._any_row_runs():
                        self._begin_worker()
                    continue
                else:
                    if number is None:
                        self.pids[worker] = answer
                    else:
                        yield self._received(number, answer)
                if (following := waiting.take(worker)) is not None:
                    self._busy[worker.run.remote(following)] = (worker, following)

    def close(self) -> None:
        """Stop the workers, and the cluster if it was started here. One in the middle of a row leaves its files."""
        busy = {worker for worker, _ in self._busy.values()}
        ending = [worker.end.remote() for worker in self.pids if worker not in busy]
        if ending:
            self._ray.wait(ending, num_returns=len(ending), timeout=_END_TIMEOUT)
        for worker in busy | set(self.pids):
            self._ray.kill(worker)
        if self._own_cluster:
            self._ray.shutdown()

    def _begin_worker(self) -> None:
        worker = self._start()
        self._busy[worker.ready.remote()] = (worker, None)

    def _any_row_runs(self) -> bool:
        return any(number is not None for _, number in self._busy.values())

    def _retry(self, number: int, waiting: RowShares) -> RowResult | None:
        """Give a row that lost its worker to another; after several, its result is a failure."""
        self._tries[number] = self._tries.get(number, 0) + 1
        if self._tries[number] < MAX_TRIES:
            self._reporter.warning(f"row {number}: its worker died; it is given to another")
            waiting.put_back(number)
            return None
        text = f"its worker died {MAX_TRIES} times; the row may need more memory than a worker has"
        return self._failed(number, text, LostWorker(text))

    def _failed(self, number: int, text: str, error: Exception) -> RowResult:
        self.failure = error
        row = self._prepared.jobs.row(number)
        return RowResult(number, self._prepared.row_inputs(row), error=text)

    def _received(self, number: int, answer: Any) -> RowResult:
        """A row's result, its files written here. What a worker of another version sends instead is a failed row."""
        try:
            return self._save_files(*answer)
        except (TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())
            return self._failed(number, f"its worker's answer cannot be used ({reason}); is it of this version?", error)

    def _save_files(self, result: RowResult, contents: list[bytes], warnings: list[str]) -> RowResult:
        for message in warnings:
            if message not in self._said:
                self._said.add(message)
                self._reporter.warning(message)
        self.failure = RuntimeError(result.error) if result.error is not None else None
        tag = row_tag(result.row) if self._prepared.jobs.many else ""
        paths = []
        try:
            for output, data in zip(result.outputs, contents, strict=True):
                path = Path(output)
                folder = "" if path.parent == Path(".") else path.parent.as_posix()
                paths.append(save_file(self._options.output, folder, path.name, data, tag).as_posix())
        except OSError as error:
            result.error, self.failure = f"its files cannot be written: {error}", error
        result.outputs = paths
        return result


class RowShares:
    """The rows that wait, a share of neighbours for each worker: it takes from its own share and, when that is empty,
    from the end of the longest other."""

    def __init__(self, numbers: list[int], count: int):
        size = -(-len(numbers) // max(1, count)) or 1
        self._shares = [deque(numbers[start : start + size]) for start in range(0, len(numbers), size)]
        self._owner: dict[Any, int] = {}
        self._lost_rows: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._lost_rows) + sum(map(len, self._shares))

    def take(self, worker: Any) -> int | None:
        """The next row for a worker, or None when none is left."""
        if self._lost_rows:
            return self._lost_rows.popleft()
        free = [index for index in range(len(self._shares)) if index not in self._owner.values()]
        own = self._owner.setdefault(worker, free[0]) if free else self._owner.get(worker)
        if own is not None and self._shares[own]:
            return self._shares[own].popleft()
        longest = max(self._shares, key=len, default=deque())
        return longest.pop() if longest else None

    def put_back(self, number: int) -> None:
        """A row that must be run once more, before the others."""
        self._lost_rows.append(number)


def worker_plan(resources: dict[str, float], wanted: int | None) -> tuple[int, dict[str, float]]:
    """How many workers a cluster carries, and what each holds: a GPU, or a group of cores."""
    gpus, cores = int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 1)))
    if gpus:
        count = min(wanted or gpus, gpus)
        return count, {"num_gpus": 1, "num_cpus": min(1, cores // count)}
    count = min(wanted or max(1, cores // _CORES), cores)
    return count, {"num_cpus": cores // count}


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
