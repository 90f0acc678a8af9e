"""Rows run in this process, one after another, in one Session: models and results that rows share are made once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..engine.outcome import Event, Outcome
from ..engine.run_host import RunHost
from ..engine.session import Session
from ..rows.prepared import Prepared
from ..rows.results import RowResult

Listener = Callable[[int, Event], None]  # row number, what happened


class LocalRunner:
    """Runs rows in `session`, whose host is a RunHost. `failure` is the last row's error as it was raised."""

    def __init__(self, prepared: Prepared, session: Session, listener: Listener):
        self._prepared = prepared
        self._session = session
        self._listener = listener
        self.failure: Exception | None = None

    def run(self, numbers: Iterable[int]) -> Iterator[RowResult]:
        """Run the rows in the order given and yield how each ended. An interrupt is raised."""
        for number in numbers:
            yield self.run_row(number)

    def run_row(self, number: int) -> RowResult:
        """Run one row. What a node raises ends up in the result, and in `failure`."""
        row = self._prepared.jobs.row(number)
        result = RowResult(number, self._prepared.row_inputs(row))
        clock = NodeClock(self._prepared)
        host = self._session.host
        host.file_tag = f"_row{number:05}" if self._prepared.jobs.many else ""

        def hear(event: Event) -> None:
            clock.hear(event)
            self._listener(number, event)

        start = time.perf_counter()
        self.failure = None
        validation = self._session.validate(self._prepared.row_prompt(number), self._prepared.outputs)
        if validation.faults:
            result.error = "; ".join(map(str, validation.problems(self._prepared.classes)))
            self.failure = ValueError(result.error)
        else:
            workflow = self._prepared.row_workflow(row)
            outcome = self._session.run(
                validation.prompt,
                extra_pnginfo={"workflow": workflow} if workflow is not None else None,
                outputs=validation.good_outputs,
                on_event=hear,
            )
            fill(result, outcome, host)
            self.failure = outcome.error
        result.seconds = round(time.perf_counter() - start, 3)
        result.node_seconds = clock.seconds
        host.close()  # previews need not outlive their row
        return result


class NodeClock:
    """Measures how long nodes run, by class."""

    def __init__(self, prepared: Prepared):
        self._prompt = prepared.prompt
        self._running: tuple[str, float] | None = None
        self._times: dict[str, list[float]] = {}

    def hear(self, event: Event) -> None:
        """Take note of one event of the run."""
        if event.kind not in ("executing", "done", "error", "interrupted"):
            return
        now = time.perf_counter()
        if self._running:
            name, since = self._running
            self._times.setdefault(name, []).append(now - since)
        self._running = None
        if event.kind == "executing" and event.node is not None:
            node = self._prompt.get(event.data.get("display", event.node), {})
            self._running = (str(node.get("class_type")), now)

    @property
    def seconds(self) -> dict[str, float]:
        """The mean time of one run of a node, by class."""
        return {name: round(sum(times) / len(times), 4) for name, times in self._times.items()}


def fill(result: RowResult, outcome: Outcome, host: RunHost) -> None:
    """Take over what a run made: files in the output folder, texts, and the error."""
    root = Path(host.folder("output"))
    for node_id, ui in outcome.outputs.items():
        for name, entries in ui.items():
            files = [entry for entry in entries if isinstance(entry, dict) and "filename" in entry]
            saved = [entry for entry in files if entry.get("type") == "output"]
            result.outputs += [(Path(entry.get("subfolder", "")) / entry["filename"]).as_posix() for entry in saved]
            if name == "text":
                result.texts[node_id] = [entry for entry in entries if isinstance(entry, str)]
    result.outputs = [path for path in dict.fromkeys(result.outputs) if (root / path).is_file()]
    result.executed = outcome.executed
    if outcome.error is not None:
        result.error = " ".join(str(outcome.error).split())
