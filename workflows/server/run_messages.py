"""The events of a run as the messages that the editor's page understands, sent to the page that queued it."""

from __future__ import annotations

import logging
import struct
import time
import traceback
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ...nodes.host import graph_name, preview_picture
from ..engine.outcome import Event, NodeFailure
from .job import Job
from .json_text import to_json
from .pages import Pages

if TYPE_CHECKING:
    from ...unclip_core.diffusion.samplers import StepState

_PREVIEW_INTERVAL = 0.2  # seconds: each preview waits for the device
_PREVIEW_SIDE = 512
_STATE_INTERVAL = 0.05
_MAX_STATES = 32  # nodes of one progress_state: the page draws the running one, and the others' last colour
_TEXT, _PREVIEW = 3, 4  # kinds of binary messages
_LOG = logging.getLogger(__name__)


class RunMessages:
    """Sends one job's run to its page, and keeps in the job what the history needs.

    `warned`: graph and id of the nodes under which the page shows a warning; outlives the job.
    """

    def __init__(self, job: Job, pages: Pages, warned: set[tuple[str, str]]):
        self._job = job
        self._pages = pages
        self._warned = warned
        self._states: dict[str, dict[str, Any]] = {}
        self._ran: list[str] = []
        self._previewed = self._sent_states = 0.0
        self.node: str | None = None  # the node that runs

    def on_event(self, event: Event) -> None:
        """Send one event."""
        handler = getattr(self, f"_on_{event.kind}", None)
        if handler is not None:
            handler(event)

    def failed(self, error: BaseException, failure: NodeFailure | None = None) -> None:
        """Send an error: of the node that `failure` names, or of the run itself."""
        lines = traceback.format_tb(error.__traceback__)
        data = {
            "node_id": failure.node_id if failure else self.node or "",
            "node_type": failure.class_type if failure else "",
            "executed": failure.executed if failure else self._ran,
            "exception_message": str(error) or type(error).__name__,
            "exception_type": type(error).__name__,
            "traceback": lines,
            "current_inputs": failure.inputs if failure else {},
            "current_outputs": [],
        }
        self._keep("execution_error", data)

    def ended(self, success: bool) -> None:
        """The job is over; what went wrong was sent before."""
        self.node = None
        if success:
            self._keep("execution_success", {})
        self._send("executing", {"node": None})

    # --- Events --------------------------------------------------------------------------------------------------

    def _on_start(self, event: Event) -> None:
        self._keep("execution_start", {})

    def _on_cached(self, event: Event) -> None:
        self._keep("execution_cached", {"nodes": event.data["nodes"]})

    def _on_executing(self, event: Event) -> None:
        if last := self._states.get(self.node):
            last["state"], last["value"] = "finished", last["max"]
        self._states.pop(event.node, None)  # the one that runs comes last
        while len(self._states) >= _MAX_STATES:
            del self._states[next(iter(self._states))]
        self.node = event.node
        self._ran.append(event.node)
        self._send("executing", {"node": event.node, "display_node": event.data["display"]})
        self._state(event.node, 0, 1, at_once=True)

    def _on_progress(self, event: Event) -> None:
        value, most = event.data["value"], event.data["max"]
        last = value >= most
        self._send("progress", {"node": event.node, "value": value, "max": most}, droppable=not last)
        self._state(event.node, value, most, at_once=last)
        self._preview(event.node, event.data["step"], last)

    def _on_warning(self, event: Event) -> None:
        messages, place = event.data["messages"], (graph_name(self._job.pnginfo, self._job.client), event.node)
        if event.node is None:  # found before a node ran
            for message in messages:
                _LOG.warning(message)
        elif messages or place in self._warned:
            (self._warned.add if messages else self._warned.discard)(place)
            self._show_text(event.node, "\n".join(messages) or " ")  # the page ignores an empty text

    def _on_executed(self, event: Event) -> None:
        shown = event.data["ui"]
        self._job.shown[event.node] = shown
        self._send("executed", {"node": event.node, "display_node": event.data["display"], "output": shown})

    def _on_blocked(self, event: Event) -> None:
        self._show_text(event.node, event.data["message"])

    def _on_error(self, event: Event) -> None:
        failure = event.data["failure"]
        self.failed(failure.__cause__ or failure, failure)

    def _on_interrupted(self, event: Event) -> None:
        node = event.node or ""
        kind = self._job.prompt.get(node, {}).get("class_type", "")
        self._keep("execution_interrupted", {"node_id": node, "node_type": kind, "executed": self._ran})

    # --- Sending -------------------------------------------------------------------------------------------------

    def _keep(self, kind: str, data: dict[str, Any]) -> None:
        data = {**data, "prompt_id": self._job.id, "timestamp": int(time.time() * 1000)}
        self._job.messages.append((kind, data))
        self._pages.send(self._job.client, kind, data)

    def _send(self, kind: str, data: dict[str, Any], droppable: bool = False) -> None:
        self._pages.send(self._job.client, kind, {**data, "prompt_id": self._job.id}, droppable)

    def _show_text(self, node: str, text: str) -> None:
        """Show a text under a node, in the place of the last one."""
        name = node.encode()
        message = struct.pack(">II", _TEXT, len(name)) + name + text.encode("utf-8", "replace")
        self._pages.send_raw(self._job.client, message)

    def _names(self, node: str) -> dict[str, Any]:
        named = {name: node for name in ("node_id", "display_node_id", "real_node_id")}
        return {**named, "parent_node_id": None, "prompt_id": self._job.id}

    def _state(self, node: str, value: int, most: int, at_once: bool) -> None:
        """The bars of the node that runs and of those before it, as many as a message may hold however large the graph
        is; a fast sampler has more steps than a page can draw."""
        self._states[node] = {**self._names(node), "value": value, "max": most, "state": "running"}
        now = time.monotonic()
        if at_once or now - self._sent_states >= _STATE_INTERVAL:
            self._sent_states = now
            self._send("progress_state", {"nodes": self._states}, droppable=True)

    def _preview(self, node: str, step: StepState, last: bool) -> None:
        from PIL import Image, ImageOps

        now = time.monotonic()
        wanted = self._job.previews and self._job.client in self._pages and step.is_visible
        if not wanted or (now - self._previewed < _PREVIEW_INTERVAL and not last):
            return
        self._previewed = now
        file = BytesIO()
        # As large as ComfyUI sends them: on its canvas the page never enlarges a picture.
        picture = ImageOps.contain(preview_picture(step), (_PREVIEW_SIDE, _PREVIEW_SIDE), Image.Resampling.BILINEAR)
        picture.save(file, format="JPEG", quality=90)
        about = to_json({**self._names(node), "image_type": "image/jpeg"}).encode()
        message = struct.pack(">II", _PREVIEW, len(about)) + about + file.getvalue()
        self._pages.send_raw(self._job.client, message, droppable=True)
