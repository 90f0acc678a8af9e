"""How long nodes take, measured from the events of a run: what the estimates of later runs are made of."""

from __future__ import annotations

import time

from ..document.graph import Prompt
from ..engine.outcome import Event


class NodeClock:
    """Measures one run of `prompt`."""

    def __init__(self, prompt: Prompt):
        self._prompt = prompt
        self._running: tuple[str, float] | None = None  # class, since when
        self._times: dict[str, list[float]] = {}

    def on_event(self, event: Event) -> None:
        """Take note of one event; a node runs until the next one starts, or the run ends."""
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
