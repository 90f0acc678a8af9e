"""A host that tells a listener what the nodes report, and passes everything else on to the run's own host."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...nodes.host import Host, Report
from .outcome import Event

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from ...unclip_core.diffusion.samplers import StepState
    from ...unclip_core.runtime.placement import Manager

running_node: contextvars.ContextVar[str | None] = contextvars.ContextVar("unclip_running_node", default=None)


class ListeningHost(Host):
    """`tell` hears `progress` and `warning` events of the node that `running_node` names."""

    def __init__(self, host: Host, tell: Callable[[Event], None]):
        self._host = host
        self._tell = tell
        self.file_tag = host.file_tag

    def report(self, label: str) -> Report:
        return _Heard(self._host.report(label), label, self._tell)

    def check_interrupt(self) -> None:
        self._host.check_interrupt()

    def warn(self, *messages: str) -> None:
        self._host.warn(*messages)
        if messages:
            self._tell(Event("warning", running_node.get(), {"messages": list(messages)}))

    def device(self) -> torch.device | None:
        return self._host.device()

    def memory_manager(self) -> Manager | None:
        return self._host.memory_manager()

    def dtype(self, setting: str) -> str:
        return self._host.dtype(setting)

    def keeps_graphs(self) -> bool:
        return self._host.keeps_graphs()

    def model_folders(self) -> list[Path]:
        return self._host.model_folders()

    def folder(self, kind: str) -> Path:
        return self._host.folder(kind)

    def follows_links(self) -> bool:
        return self._host.follows_links()


class _Heard(Report):
    def __init__(self, report: Report, label: str, tell: Callable[[Event], None]):
        self._report = report
        self._label = label
        self._tell = tell
        self._node = running_node.get()

    def step(self, state: StepState) -> None:
        self._report.step(state)
        data = {"value": state.index + 1, "max": state.total, "label": self._label, "step": state}
        self._tell(Event("progress", self._node, data))

    def close(self) -> None:
        self._report.close()
