"""Saved graphs (*.json) and what runs them without an editor. From Python:

    from comfyui_unclip.workflows import load, run

    graph = load("text_to_image")
    report = run(graph, {"prompt": "a red star on a night sky"}, sweep={"seed": range(4)}, grid=True)
    print(report.files)

The rooms, each importing only from those before it: document, settings, checks, engine, rows, places, commands and
server. No module here imports torch at module level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .document.reading import Workflow
    from .engine.outcome import Event
    from .engine.session import Session
    from .rows.results import RowResult

__all__ = ["Report", "load", "run"]


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


# The functions import what they use when they are called: every `unclip` command imports this module first.


def load(path: str | Path) -> Workflow:
    """A graph as the editor saves or exports it: JSON, or a picture that carries it; or by the name of one that comes
    with the pack. Raises WorkflowError."""
    from .document.reading import load_workflow

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
    `places.options.Options`: output, input, resume, grid, nodes, server, ray, cache ... `session` is an earlier
    report's. `on_result` gets each row as it ends, `on_event` (row number, Event) what happens in it.

    Raises WorkflowError with everything that is wrong before any work starts. A single run raises what a node raised;
    of several rows those that failed are in `report.failed`.
    """
    from ..nodes.host import LocalHost
    from .places.local import new_session
    from .places.options import Options
    from .places.running import prepare_run, run_prepared
    from .rows.jobs import from_values
    from .rows.reporters import CollectingReporter

    for name in {"output", "input", "cache"} & options.keys():
        options[name] = None if options[name] is None else Path(options[name])
    chosen = Options(**options)
    prepared = prepare_run(workflow, from_values(values or {}, rows, sweep or {}), chosen, partial)
    report, reporter = Report(chosen.output), CollectingReporter(chosen.output, on_event)
    report.warnings = reporter.warnings

    def keep(result: RowResult) -> None:
        report.rows.append(result)
        if on_result:
            on_result(result)

    if not (chosen.server or chosen.ray):
        if session is None:
            session = new_session(prepared, chosen, keep_results=True)
        else:
            session.host = LocalHost(chosen.output, chosen.input, quiet=not chosen.bars)
            session.classes = prepared.classes
        report.session = session
    try:
        run_prepared(prepared, chosen, reporter, keep, report.session)
    finally:
        report.rows.sort(key=lambda result: result.row)
        report.grid = next(iter(reporter.files), None)
        if report.session is not None:
            report.session.host.close()
    return report
