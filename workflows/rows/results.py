"""results.jsonl: a line for every row that ended, appended as it ends, so that a killed run can go on.

Every line is one JSON object and carries the fingerprint of its job, so that several jobs, and several processes, may
share a folder. A line that a kill or a full disk tore is skipped when the file is read, and never glued to the next.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...unclip_core.disk import Taken, only_one, sync_folder
from ..document.graph import Problem, WorkflowError

FILE = "results.jsonl"
_LOG = logging.getLogger(__name__)
_MAX_LINE = 16 * 2**20  # bytes
_MAX_SECONDS = 1e8  # three years: what a node may take
_KINDS: dict[str, Any] = {  # of a line's values, as JSON has them
    "row": int,
    "inputs": dict,
    "outputs": list,
    "seconds": int | float,
    "error": str | None,
    "texts": dict,
    "executed": list,
    "node_seconds": dict,
}


@dataclass
class RowResult:
    """How one row ended. `outputs` are paths below the output folder; `texts` what output nodes show as text."""

    row: int
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None
    texts: dict[str, list] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)  # ids of the nodes that ran; the others came from the cache
    node_seconds: dict[str, float] = field(default_factory=dict)  # mean per node, by class: estimates

    @property
    def ok(self) -> bool:
        return self.error is None


class Results:
    """The file of one job in one output folder."""

    def __init__(self, folder: Path, job: str):
        self.path = folder / FILE
        self.job = job
        self._has_lines = False
        self._lock = folder / f".job-{job}.lock"

    def append(self, result: RowResult) -> None:
        """Add a line and put it on the disk. Raises OSError when it cannot; the next line is whole all the same."""
        line = json.dumps({"job": self.job, **asdict(result)}, ensure_ascii=False, default=str) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One write to a file opened for appending is not mixed with those of another process.
        new = not self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        try:
            data = line.encode("utf-8", "surrogatepass")
            if _torn(descriptor):
                data = b"\n" + data
            written = os.write(descriptor, data)
            while written < len(data):  # a full disk takes a part first and refuses the rest
                written += os.write(descriptor, data[written:])
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._has_lines = True
        if new:
            sync_folder(self.path.parent)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other process does this job in this folder; others may do other jobs there. Raises WorkflowError
        if one does. A kill frees it.

        The lock's file stays until the job has its first line: it says that the job was begun here.
        """
        with contextlib.ExitStack() as stack:
            try:
                hold = stack.enter_context(only_one(self._lock))
            except Taken as owner:
                message = f"{owner} is doing these rows in {self.path.parent}; wait for it, stop it, or use another -o"
                raise WorkflowError([Problem("job_runs", message)]) from None
            self._has_lines = any(line.get("job") == self.job for line in read_lines(self.path))
            try:
                yield
            finally:
                hold.remove = self._has_lines

    def finished(self) -> dict[int, RowResult]:
        """The rows that this job has behind it: they ended without an error, and their files are still there."""
        found: dict[int, RowResult] = {}
        for number, line in _numbered(self.path):
            if line.get("job") != self.job:
                continue
            if (result := _result(line)) is None:
                _LOG.warning("%s, line %d is not as it was written; its row counts as not done", self.path, number)
                continue
            if result.ok and all(_is_there(self.path.parent, output) for output in result.outputs):
                found[result.row] = result
            else:
                found.pop(result.row, None)
        return found

    def check_resumable(self) -> None:
        """Raise WorkflowError when the folder holds the results of other jobs only: the definition was changed. A job
        that was stopped before its first line has left its lock."""
        jobs = [line.get("job") for line in read_lines(self.path)]
        if jobs and self.job not in jobs and not self._lock.exists():
            message = (
                f"--resume: {self.path} is of another job: the graph, its values or its rows were changed since; "
                "give the same again, or run without --resume or with another -o"
            )
            raise WorkflowError([Problem("invalid_resume", message)])


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a results file, none when there is no file. Torn lines are skipped with a warning."""
    return (line for _, line in _numbered(path))


def _numbered(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """`read_lines` with each line's number, from 1."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        # A part of a longer line is no JSON object, nor is its rest.
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), 1):
            if not line.strip():
                continue
            try:
                data = json.loads(line)
            except (ValueError, RecursionError):
                data = None
            if isinstance(data, dict):
                yield number, data
            else:
                _LOG.warning("%s, line %d is torn; its row counts as not done", path, number)


def _is_there(folder: Path, output: str) -> bool:
    try:
        return (folder / output).is_file()
    except OSError:  # no name that a file can have
        return False


def seconds_by_class(path: Path) -> dict[str, float]:
    """The mean time of each node class that ran, over all rows of all jobs in the file."""
    total: dict[str, list[float]] = {}
    for line in read_lines(path):
        seconds = line.get("node_seconds")
        for name, value in seconds.items() if isinstance(seconds, dict) else ():
            if type(value) in (int, float) and 0 <= value < _MAX_SECONDS:
                total.setdefault(name, []).append(float(value))
    return {name: sum(values) / len(values) for name, values in total.items()}


def _torn(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    if not size:
        return False
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1) != b"\n"


def _result(line: dict[str, Any]) -> RowResult | None:
    """The line as it was written, or None for what no run writes."""
    known = {name: line[name] for name in RowResult.__dataclass_fields__ if name in line}
    if not isinstance(known.get("row"), int):
        return None
    if not all(isinstance(value, _KINDS[name]) and type(value) is not bool for name, value in known.items()):
        return None
    listed = [*known.get("outputs", []), *known.get("executed", [])]
    if not all(isinstance(text, str) and "\0" not in text for text in listed):
        return None
    return RowResult(**known)
