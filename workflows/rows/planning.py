"""What a run would do, without doing it: `unclip run --dry-run`. Loads no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ..document.graph import links_of
from .prepared import Prepared

_UNCHANGED = object()


@dataclass(frozen=True)
class Plan:
    """The work ahead. Node classes are counted as they run with results reused, and as they would without."""

    rows: int
    finished: int
    nodes: dict[str, int]
    nodes_without_reuse: dict[str, int]
    seconds: float | None  # None: nothing of this kind was measured yet
    unmeasured: list[str]  # classes that the estimate leaves out

    @property
    def time_text(self) -> str:
        """The estimate in words."""
        if self.seconds is None:
            return "unknown: nothing was measured in this output folder yet; run a few rows first"
        text = f"about {in_words(self.seconds)}, from what earlier rows took"
        return text + (f" (without {', '.join(self.unmeasured)})" if self.unmeasured else "")


def plan(prepared: Prepared, finished: set[int], measured: Mapping[str, float]) -> Plan:
    """Count what the rows outside `finished` run, in their order. `measured`: mean seconds per node class."""
    order = prepared.order(finished)
    nodes = prepared.run_order()
    place = {node_id: index for index, node_id in enumerate(nodes)}
    users: dict[str, set[str]] = {node_id: {node_id} for node_id in nodes}  # with the node itself
    for node_id in reversed(nodes):
        for origin, _ in links_of(prepared.prompt[node_id]).values():
            users[origin] |= users[node_id]
    runs: Counter[str] = Counter(nodes if order else ())
    before = prepared.changes(order[0]) if order else {}
    for number in order[1:]:
        changes = prepared.changes(number)
        keys = before.keys() | changes.keys()
        touched = {key[0] for key in keys if before.get(key, _UNCHANGED) != changes.get(key, _UNCHANGED)}
        runs.update({user for node_id in touched if node_id in place for user in users[node_id]})
        before = changes
    by_class: Counter[str] = Counter()
    for node_id in nodes:
        by_class[_class(prepared, node_id)] += runs[node_id]
    plain = Counter(_class(prepared, node_id) for node_id in nodes)
    without = {name: count * len(order) for name, count in plain.items()}
    known = [name for name in by_class if name in measured]
    seconds = sum(measured[name] * by_class[name] for name in known) if known else None
    missing = [name for name in by_class if name not in measured] if known else []
    return Plan(len(prepared.jobs), len(finished), dict(by_class), without, seconds, missing)


def in_words(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{max(seconds, 0.1):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _class(prepared: Prepared, node_id: str) -> str:
    return str(prepared.prompt[node_id].get("class_type"))
