"""One queued prompt from its arrival to its end, and the shapes in which the page asks for it.

Recent pages ask for jobs; those before, and `unclip run --server`, for the queue and the history.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from ..document.graph import Prompt
from .json_text import memory_of

PENDING, RUNNING, COMPLETED, FAILED, CANCELLED = "pending", "in_progress", "completed", "failed", "cancelled"
_VIEWABLE = ("images", "gifs", "video", "audio", "3d")  # kinds of files that the page can show
STATUSES = (PENDING, RUNNING, COMPLETED, FAILED, CANCELLED)


@dataclass
class Job:
    """`prompt` is checked, `outputs` are its output nodes that can be made. Times are Unix seconds."""

    id: str
    number: float  # the smallest runs first
    prompt: Prompt
    outputs: list[str]
    client: str | None = None  # whose page hears of it
    pnginfo: dict[str, Any] | None = None  # what saved pictures carry beside the prompt: the page's graph
    previews: bool = True
    status: str = PENDING
    created: float = field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    shown: dict[str, dict[str, list]] = field(default_factory=dict)  # node -> what it shows
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # what was said, without progress
    cancel: threading.Event = field(default_factory=threading.Event)
    memory: int = 0  # bytes, as `measure` found

    def measure(self) -> None:
        """Find out what the job takes in memory now: its prompt, and what it has shown and said."""
        self.memory = memory_of([self.prompt, self.pnginfo, self.shown, self.messages])

    def queue_entry(self) -> list[Any]:
        """As in /queue."""
        return [self.number, self.id, self.prompt, self._extra(), self.outputs]

    def history_entry(self) -> dict[str, Any]:
        """As in /history."""
        done = self.status == COMPLETED
        status = {"status_str": "success" if done else "error", "completed": done, "messages": self.messages}
        return {"prompt": self.queue_entry(), "outputs": self.shown, "status": status, "meta": self._meta()}

    def summary(self) -> dict[str, Any]:
        """As in /jobs."""
        files = [(node, kind, entry) for node, ui in self.shown.items() for kind, entry in _files(ui)]
        viewable = [found for found in files if found[1] in _VIEWABLE]
        kept = [found for found in viewable if found[2].get("type") == "output"] or viewable
        preview = None
        if kept:
            node, kind, entry = kept[-1]
            preview = {**entry, "nodeId": node, "mediaType": kind}
        return {
            "id": self.id,
            "status": self.status,
            "priority": self.number,
            "create_time": _milliseconds(self.created),
            "execution_start_time": _milliseconds(self.started),
            "execution_end_time": _milliseconds(self.ended),
            "execution_error": next((data for kind, data in self.messages if kind == "execution_error"), None),
            "outputs_count": len(files),
            "previewable_outputs_count": len(viewable),
            "preview_output": preview,
            "workflow_id": self._workflow_id(),
        }

    def detail(self) -> dict[str, Any]:
        """As in /jobs/<id>."""
        entry = self.history_entry()
        return {
            **self.summary(),
            "workflow": {"prompt": self.prompt, "extra_data": self._extra()},
            "outputs": self.shown,
            "update_time": _milliseconds(self.ended or self.started or self.created),
            "execution_status": entry["status"],
            "execution_meta": entry["meta"],
        }

    def _extra(self) -> dict[str, Any]:
        extra: dict[str, Any] = {} if self.pnginfo is None else {"extra_pnginfo": self.pnginfo}
        return extra if self.client is None else {**extra, "client_id": self.client}

    def _meta(self) -> dict[str, dict[str, Any]]:
        return {
            node: {"node_id": node, "display_node": node, "parent_node": None, "real_node_id": node}
            for node in self.shown
        }

    def _workflow_id(self) -> str | None:
        workflow = (self.pnginfo or {}).get("workflow")
        found = workflow.get("id") if isinstance(workflow, dict) else None
        return found if isinstance(found, str) else None


def _files(ui: dict[str, list]) -> list[tuple[str, dict[str, Any]]]:
    """(kind, entry) of every file that a node shows."""
    entries = [(kind, entry) for kind, values in ui.items() if isinstance(values, list) for entry in values]
    return [(kind, entry) for kind, entry in entries if isinstance(entry, dict) and "filename" in entry]


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)
