"""Graphs from Python: `from comfyui_unclip.workflows import load, run`.

graph = load("workflows/text_to_image.json")
report = run(graph, {"prompt": "a red star on a night sky"}, sweep={"seed": range(4)}, grid=True)
print(report.files)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..nodes.host import use_host
from .document.graph import Workflow, WorkflowError, load_workflow
from .engine.outcome import Event
from .engine.run_host import RunHost
from .engine.session import Session
from .places.running import Options, check_options, classes_for, new_session, run_prepared
from .rows.jobs import from_values
from .rows.prepared import Prepared, prepare
from .rows.reporters import Reporter
from .rows.results import RowResult


@dataclass
class Report:
    """What a run made. `rows` in their numbers' order, those that `resume` found included."""

    folder: Path
    rows: list[RowResult] = field(default_factory=list)
    grid: Path | None = None
    warnings: list[str] = field(default_factory=list)
    session: Session | None = None  # give it to the next `run`: models and results stay in memory

    @property
    def files(self) -> list[Path]:
        """Every file that was saved."""
        return [self.folder / output for row in self.rows for output in row.outputs]

    @property
    def failed(self) -> list[RowResult]:
        """The rows that ended with an error."""
        return [row for row in self.rows if not row.ok]


def load(path: str | Path) -> Workflow:
    """A graph as the editor saves or exports it: JSON, or a picture that carries it. Raises WorkflowError."""
    return load_workflow(path)


def run(
    workflow: Workflow | str | Path,
    values: Mapping[str, Any] | None = None,
    *,
    rows: Sequence[Mapping[str, Any]] = (),
    sweep: Mapping[str, Iterable[Any]] | None = None,
    on_result: Callable[[RowResult], None] | None = None,
    on_event: Callable[[int, Event], None] | None = None,
    session: Session | None = None,
    partial: bool = False,
    **options: Any,
) -> Report:
    """Run a graph: once, or for each of `rows` (a table) and each combination of `sweep`.

    `values`, the columns of `rows` and the names of `sweep` are those of `unclip run -s`. `options` are the fields of
    `running.Options`: output, input, resume, grid, nodes, server, ray, cache ... `session` is an earlier report's.

    Raises WorkflowError with everything that is wrong before any work starts. A single run raises what a node raised;
    of several rows those that failed are in `report.failed`.
    """
    chosen = Options(
        **{name: _path(value) if name in ("output", "input", "cache") else value for name, value in options.items()}
    )
    workflow = workflow if isinstance(workflow, Workflow) else load(workflow)
    jobs = from_values(values or {}, rows, sweep or {})
    if problems := check_options(chosen, jobs):
        raise WorkflowError(problems)
    report = Report(chosen.output)
    prepared = _prepared(workflow, jobs, chosen, partial)

    def keep(result: RowResult) -> None:
        report.rows.append(result)
        if on_result:
            on_result(result)

    here = not (chosen.server or chosen.ray)
    if here:
        report.session = session or new_session(prepared, replace(chosen, bars=False), keep_results=True)
        report.session.host = RunHost(chosen.output, chosen.input, warned=report.warnings.append)
        report.session.classes = prepared.classes
    try:
        run_prepared(prepared, chosen, _Listener(report, on_event), keep, report.session)
    finally:
        report.rows.sort(key=lambda result: result.row)
        if report.session is not None:
            report.session.host.close()
    return report


def _prepared(workflow: Workflow, jobs: Any, options: Options, partial: bool) -> Prepared:
    host = RunHost(options.output, options.input)
    with use_host(host):
        return prepare(workflow, jobs, classes_for(options), partial)


class _Listener(Reporter):
    """Says nothing; fills in the report."""

    def __init__(self, report: Report, on_event: Callable[[int, Event], None] | None):
        super().__init__(report.folder)
        self._report = report
        self._on_event = on_event

    def event(self, row: int, event: Event) -> None:
        if self._on_event:
            self._on_event(row, event)

    def warning(self, message: str) -> None:
        self._report.warnings.append(message)

    def made(self, path: Path) -> None:
        self._report.grid = path


def _path(value: Any) -> Any:
    return None if value is None else Path(value)
