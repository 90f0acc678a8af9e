"""How a run is reported while it works: a bar and lines for a person, paths alone, or a JSON line per event."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...unclip_core.texts import json_text, one_line, printable
from ..document.graph import node_title
from ..engine.outcome import Event
from ..terminal import echo
from .batch import Summary
from .prepared import Prepared
from .results import RowResult

_MAX_LINES = 24  # of what one node shows as text


class Reporter:
    """Gets everything that happens in a run and prints nothing. `output` is the folder that outputs are relative to."""

    def __init__(self, output: Path):
        self.output = output
        self.many = False

    def begin(self, prepared: Prepared, to_run: int, skipped: int) -> None:
        """Everything is checked; work starts."""
        self.many = prepared.jobs.many

    def event(self, row: int, event: Event) -> None:
        """Something happened in a row."""

    def result(self, result: RowResult) -> None:
        """A row ended."""

    def warning(self, message: str) -> None:
        """Something to know that stops nothing."""

    def made(self, path: Path) -> None:
        """A file besides the rows' outputs."""

    def end(self, summary: Summary | None) -> None:
        """The run is over; None when it was cut short."""


class CollectingReporter(Reporter):
    """Keeps what there is to know beside the results, for code to read. `on_event` hears each row's events."""

    def __init__(self, output: Path, on_event: Callable[[int, Event], None] | None = None):
        super().__init__(output)
        self.warnings: list[str] = []
        self.files: list[Path] = []  # those besides the rows' outputs
        self._on_event = on_event

    def event(self, row: int, event: Event) -> None:
        if self._on_event:
            self._on_event(row, event)

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def made(self, path: Path) -> None:
        self.files.append(path)


class QuietReporter(Reporter):
    """The paths of what was saved on stdout, and nothing else there; warnings and what failed on stderr."""

    SAVED = ""

    def event(self, row: int, event: Event) -> None:
        if not self.many and event.kind == "executed":  # at once: a long graph may have more to do
            for path in _saved(event):
                self._line(f"{self.SAVED}{self.output / path}")

    def result(self, result: RowResult) -> None:
        if self.many:
            for path in result.outputs:
                self._line(f"{self.SAVED}{self.output / path}")
            if result.error is not None:
                self._line(f"error: row {result.row}: {result.error}", err=True)

    def warning(self, message: str) -> None:
        self._line(f"warning: {message}", err=True)

    def made(self, path: Path) -> None:
        self._line(f"{self.SAVED}{path}")

    def _line(self, text: str, err: bool = False) -> None:
        echo(text, err=err)


class HumanReporter(QuietReporter):
    """The same in words, with what nodes show as text, one bar over all rows and a last line that sums up."""

    SAVED = "saved "

    def __init__(self, output: Path):
        super().__init__(output)
        self._prepared: Prepared | None = None
        self._bar: Any = None
        self._drawn = 0.0

    def begin(self, prepared: Prepared, to_run: int, skipped: int) -> None:
        super().begin(prepared, to_run, skipped)
        self._prepared = prepared
        for assigned in prepared.assigned:
            echo(str(assigned))
        for problem in prepared.skipped:
            self.warning(f"not run: {problem}")
        if self.many:
            from tqdm import tqdm

            total = to_run + skipped
            self._bar = tqdm(total=total, initial=skipped, unit="row", dynamic_ncols=True, desc="rows")

    def event(self, row: int, event: Event) -> None:
        super().event(row, event)
        if self._bar is not None and event.kind == "progress":
            value, most = event.data.get("value"), event.data.get("max")
            label = str(event.data.get("label") or "step")
            self._bar.set_postfix_str(f"row {row}: {printable(label)} {value}/{most}", refresh=False)
            if time.monotonic() - self._drawn > 0.2:  # update() would count as a row's end in the time left
                self._drawn = time.monotonic()
                self._bar.refresh()

    def result(self, result: RowResult) -> None:
        for node_id, texts in result.texts.items():
            self._show(result.row, node_id, "\n".join(texts).splitlines())
        super().result(result)
        if self._bar is not None:
            self._bar.update()

    def _show(self, row: int, node_id: str, lines: list[str]) -> None:
        """What a node shows as text, under the node's title; a single line beside it."""
        node = self._prepared.prompt.get(node_id) if self._prepared else None
        name = one_line(node_title(node, self._prepared.classes)) if node else f"node {node_id}"
        name = f"row {row}, {name}" if self.many else name
        if len(lines) > _MAX_LINES:
            lines = [*lines[:_MAX_LINES], f"... {len(lines) - _MAX_LINES} more lines; --json shows all"]
        if len(lines) == 1:
            self._line(f"{name}: {one_line(lines[0])}")
        elif lines:
            self._line(f"{name}:")
            for line in lines:
                self._line(f"  {one_line(line)}")

    def end(self, summary: Summary | None) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self.many and summary is not None:
            parts = [f"{summary.done} done"]
            parts += [f"{summary.skipped} finished before"] * bool(summary.skipped)
            parts += [f"{summary.failed} failed"] * bool(summary.failed)
            echo(f"{summary.rows} rows: {', '.join(parts)}")

    def _line(self, text: str, err: bool = False) -> None:
        if self._bar is None:
            echo(text, err=err)
        else:
            with self._bar.external_write_mode():
                echo(text, err=err)


class JsonReporter(Reporter):
    """One JSON object per line on stdout, each with `event` and `time` (seconds since the epoch)."""

    def begin(self, prepared: Prepared, to_run: int, skipped: int) -> None:
        super().begin(prepared, to_run, skipped)
        given = {assigned.name: assigned.value for assigned in prepared.assigned}
        problems = [vars(problem) for problem in prepared.skipped]
        say("begin", rows=to_run + skipped, skipped=skipped, job=prepared.job, set=given, not_run=problems)

    def event(self, row: int, event: Event) -> None:
        if event.kind == "warning":  # `warning` prints it, once
            return
        data = {name: value for name, value in event.data.items() if name not in ("step", "failure", "ui")}
        if event.kind == "executed":
            data["outputs"] = [str(self.output / path) for path in _saved(event)]
        elif event.kind == "error":
            data["message"] = str(event.data.get("failure"))
        say(event.kind, row=row, node=event.node, **data)

    def result(self, result: RowResult) -> None:
        say("row", **vars(result))

    def warning(self, message: str) -> None:
        say("warning", message=message)

    def made(self, path: Path) -> None:
        say("file", path=str(path))

    def end(self, summary: Summary | None) -> None:
        if summary is not None:
            say("end", **vars(summary))


def say(event: str, **data: Any) -> None:
    """One line of `--json`."""
    echo(json_text({"event": event, "time": round(time.time(), 3), **data}))


def _saved(event: Event) -> list[str]:
    entries = (event.data.get("ui") or {}).values()
    files = [entry for group in entries for entry in group if isinstance(entry, dict) and "filename" in entry]
    return [
        (Path(entry.get("subfolder", "")) / entry["filename"]).as_posix()
        for entry in files
        if entry.get("type") == "output"
    ]
