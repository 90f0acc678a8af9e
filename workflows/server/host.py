"""The host of a run in the editor: folders of the command line, a cancel button, warnings under the node."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from ...nodes.host import Interrupted, LocalHost
from ..engine.listening import running_node


class EditorHost(LocalHost):
    """The host of one job at a time. Whoever runs it sets `cancel`, `warned(node, text)`, which hears what to show
    under a node, and `graph`, which tells the job's graph from others."""

    def __init__(self, output: Path, input: Path):
        super().__init__(output, input, quiet=True)
        super().folder("temp")  # made before two threads can ask for it at once
        self.cancel: threading.Event | None = None
        self.warned: Callable[[str, str], None] | None = None
        self.graph = ""
        self._noted: set[tuple[str, str]] = set()  # graph and id of nodes under which a text stands

    def follows_links(self) -> bool:
        return False  # a graph in the editor may be a stranger's, and so may the page

    def check_interrupt(self) -> None:
        if self.cancel is not None and self.cancel.is_set():
            raise Interrupted("cancelled in the editor")

    def warn(self, *messages: str) -> None:
        node = running_node.get()
        if node is None or self.warned is None:
            super().warn(*messages)
        elif messages or (self.graph, node) in self._noted:
            (self._noted.add if messages else self._noted.discard)((self.graph, node))
            self.warned(node, "\n".join(messages) or " ")  # the page ignores an empty text
