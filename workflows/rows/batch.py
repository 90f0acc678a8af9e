"""The loop over a run's rows: results are kept as rows end; a failing row does not stop it, a full disk does."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...unclip_core.disk import FULL, DiskFull, disk_full, is_full
from .prepared import Prepared
from .results import Results, RowResult

_FULL = {*FULL, errno.EROFS}
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}


class Runner(Protocol):
    """What runs rows: in this process, on a server, on a cluster. Results may come in another order than asked for."""

    failure: Exception | None  # the last result's error as it was raised, where this process has it

    def run(self, numbers: Iterable[int]) -> Iterator[RowResult]: ...


@dataclass
class Summary:
    """How a run ended."""

    rows: int
    done: int = 0
    failed: int = 0
    skipped: int = 0  # finished before, by --resume


class DiskError(RuntimeError):
    """The output folder takes no more files, so that going on would be work for nothing. The message names the row."""


def run_rows(
    prepared: Prepared,
    runner: Runner,
    output: Path,
    results: Results | None,
    on_result: Callable[[RowResult], None],
    finished: dict[int, RowResult] | None = None,
) -> Summary:
    """Run every row that is not among `finished`; append each result to `results` and call `on_result` with it.

    A row that fails does not stop the others. Raises DiskError when the output folder fails; an interrupt is raised.
    """
    finished = finished or {}
    summary = Summary(len(prepared.jobs), skipped=len(finished))
    for result in runner.run(prepared.order(finished)):
        lost = disk_failure(runner.failure, output) if result.error is not None else None
        if results is not None:
            try:
                results.append(result)
            except OSError as error:
                lost = lost or (disk_full(results.path, error=error) if is_full(error) else error)
        summary.done += result.ok
        summary.failed += not result.ok
        on_result(result)
        if lost is not None:
            raise DiskError(_disk_message(result, lost, output, results is not None))
    return summary


def disk_failure(error: BaseException | None, folder: Path) -> OSError | None:
    """The failure to write into the output folder that is behind an error, or None."""
    while error is not None:
        if isinstance(error, OSError):
            # Resolved on both sides: the folder may be a link, and nodes write to where it leads.
            named = isinstance(error.filename, str)
            inside = named and Path(error.filename).resolve().is_relative_to(folder.resolve())
            if error.errno in _FULL or (error.errno in _GONE and inside):
                return error
        error = error.__cause__
    return None


def _disk_message(result: RowResult, error: OSError, output: Path, written: bool) -> str:
    reason = str(error) if isinstance(error, DiskFull) else f"{error.filename or output}: {error.strerror or error}"
    what = "its pictures are saved, but not its line in results.jsonl" if result.ok else "it is not done"
    again = "the same again with --resume" if written else "it again"
    return f"row {result.row} is lost ({what}): {reason}; rows before it are kept; make room and run {again}"
