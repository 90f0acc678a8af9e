"""The host of a headless run: LocalHost, with warnings handed to whoever reports, and a tag for each row's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...nodes.host import LocalHost


class RunHost(LocalHost):
    """`warned` hears every warning of a node; without it they go to stderr. `bars`: a bar for each stage."""

    def __init__(self, output: Path, input: Path, bars: bool = False, warned: Callable[[str], None] | None = None):
        super().__init__(output, input, quiet=not bars)
        self._warned = warned
        self._said: set[str] = set()

    def warn(self, *messages: str) -> None:
        """Each message once in a run: a thousand rows with the same unknown word are one line."""
        for message in (message for message in messages if message not in self._said):
            if len(self._said) < 10_000:
                self._said.add(message)
            if self._warned:
                self._warned(message)
            else:
                super().warn(message)
