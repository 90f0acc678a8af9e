"""Which node may run next.

Nodes are added, and sent back to waiting, while the graph runs (lazy inputs, expansions). A sorter of graphlib takes no
more nodes once it gave some out: that is why this is not `document.graph.topological_order`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from ..document.graph import topological_order


class ReadyQueue:
    """Nodes that wait for others, and those that are ready, first come first served.

    `is_early` nodes go first: what is done is shown and saved before slow work, and asynchronous work starts at once.
    """

    def __init__(self, is_early: Callable[[str], bool]):
        self.done: set[str] = set()
        self._is_early = is_early
        self._waiting: dict[str, set[str]] = {}  # node -> origins that are not done
        self._users: dict[str, list[str]] = {}  # origin -> nodes that wait for it
        self._ready: deque[str] = deque()
        self._ready_early: deque[str] = deque()

    def __bool__(self) -> bool:
        """Whether any node is not done."""
        return bool(self._waiting)

    def __contains__(self, node_id: str) -> bool:
        """Whether a node is queued or done."""
        return node_id in self._waiting or node_id in self.done

    def wait(self, node_id: str, origins: Iterable[str]) -> None:
        """Let a node wait for origins; without any that is not done, it is ready."""
        self._waiting[node_id] = missing = {origin for origin in origins if origin not in self.done}
        for origin in missing:
            self._users.setdefault(origin, []).append(node_id)
        if not missing:
            (self._ready_early if self._is_early(node_id) else self._ready).append(node_id)

    def finish(self, node_id: str) -> None:
        """A node is done; who waited for it alone becomes ready."""
        self.done.add(node_id)
        self._waiting.pop(node_id, None)
        for user in self._users.pop(node_id, ()):
            origins = self._waiting[user]
            origins.discard(node_id)
            if not origins:
                self.wait(user, ())

    def next(self) -> str | None:
        """Take a ready node; None when there is none at present."""
        ready = self._ready_early or self._ready
        return ready.popleft() if ready else None

    def cycle(self) -> list[str]:
        """The nodes that wait for each other, when nothing is ready and nothing will be."""
        return topological_order(self._waiting)[1] or list(self._waiting)
