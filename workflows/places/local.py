"""Rows run in this process, one after another, in one Session: models and results that rows share are made once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...nodes.host import LocalHost
from ..engine.outcome import Event, Outcome
from ..engine.session import Session
from ..rows.prepared import Prepared
from ..rows.reporters import Reporter
from ..rows.results import RowResult
from .node_clock import NodeClock
from .options import Options
from .received_files import row_tag

_KEPT_OUTPUTS = 32  # of earlier rows: what a sweep comes back to, without memory growing with the rows
_MAX_REMEMBERED = 10_000  # warnings that are not said again


class LocalRunner:
    """Runs rows in `session`, whose host is a LocalHost. `failure` is the last row's error as it was raised.

    `reporter` hears each event, and each warning once: a thousand rows with the same unknown word are one line.
    """

    def __init__(self, prepared: Prepared, session: Session, reporter: Reporter):
        self._prepared = prepared
        self._session = session
        self._reporter = reporter
        self._warned: set[str] = set()
        self.failure: Exception | None = None

    def run(self, numbers: Iterable[int]) -> Iterator[RowResult]:
        """Run the rows in the order given and yield how each ended. An interrupt is raised."""
        for number in numbers:
            yield self.run_row(number)

    def run_row(self, number: int) -> RowResult:
        """Run one row. What a node raises ends up in the result, and in `failure`."""
        row = self._prepared.jobs.row(number)
        result = RowResult(number, self._prepared.row_inputs(row))
        clock = NodeClock(self._prepared.prompt)
        host = self._session.host
        host.file_tag = row_tag(number) if self._prepared.jobs.many else ""

        def on_event(event: Event) -> None:
            clock.on_event(event)
            self._reporter.event(number, event)
            if event.kind == "warning":
                self._warn(event.data["messages"])

        start = time.perf_counter()
        self.failure = None
        validation = self._prepared.take_checked(number)
        if validation is None:
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
                on_event=on_event,
            )
            _take_over(result, outcome, host.folder("output"))
            self.failure = outcome.error
        result.seconds = round(time.perf_counter() - start, 3)
        result.node_seconds = clock.seconds
        host.close()  # previews need not outlive their row
        return result

    def _warn(self, messages: list[str]) -> None:
        for message in messages:
            if message in self._warned:
                continue
            if len(self._warned) < _MAX_REMEMBERED:
                self._warned.add(message)
            self._reporter.warning(message)


def new_session(prepared: Prepared, options: Options, keep_results: bool = False) -> Session:
    """A Session for this process. Loads torch. `keep_results`: even of a single run, for the next."""
    from ...unclip_core.pages import keep_pages

    keep_pages()
    host = LocalHost(options.output, options.input, quiet=not options.bars)
    limit = _KEPT_OUTPUTS if prepared.jobs.many or keep_results else 0
    if options.cache is None:
        return Session(host, prepared.classes, cache_limit=limit)
    from ..engine.disk_cache import DiskCache

    kept = DiskCache(options.cache, options.cache_bytes, prepared.classes, limit)
    return Session(host, prepared.classes, cache=kept)


def _take_over(result: RowResult, outcome: Outcome, root: Path) -> None:
    """Fill in what a run made: files in the output folder `root`, texts, and the error."""
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
