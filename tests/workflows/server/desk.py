"""`unclip edit` as a process and a tab before it, for the browser tests and tests/tools/canvas_screenshots.py.

The browser is $UNCLIP_CHROMIUM, one on the path (Debian: apt-get install chromium), or Playwright's own.
$UNCLIP_EDITOR_FRONTEND takes another frontend's static folder.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Playwright
from playwright.sync_api import TimeoutError as PageTimeout

PATIENCE = 180.0  # seconds for one step
FIRST = 300.0  # for the first load: minutes where cores are scarce
ENDED = ("execution_success", "execution_error", "execution_interrupted")
_READY = "() => window.app?.graph && app.canvas && LiteGraph.registered_node_types['UnCLIPLoader']"
_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
_DROP = """async ([name, kind, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))
  const files = new DataTransfer()
  files.items.add(new File([bytes], name, { type: kind }))
  const canvas = app.canvas.canvas
  const where = { bubbles: true, cancelable: true, dataTransfer: files, clientX: 900, clientY: 700 }
  for (const kind of ['dragenter', 'dragover', 'drop']) canvas.dispatchEvent(new DragEvent(kind, where))
}"""
_LOOK = """(title) => {
  const [x, y] = app.graph._nodes.find((node) => node.title === title).pos
  app.canvas.ds.scale = 1
  app.canvas.ds.offset[0] = 500 - x
  app.canvas.ds.offset[1] = 300 - y
  app.canvas.setDirty(true, true)
}"""
_SET = """([title, values]) => {
  const node = app.graph._nodes.find((node) => node.title === title)
  for (const widget of node.widgets) if (widget.name in values) widget.value = values[widget.name]
}"""


def chromium(play: Playwright) -> str | None:
    """Path of a Chromium, or None for none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = [os.environ.get("UNCLIP_CHROMIUM"), *map(shutil.which, names), play.chromium.executable_path]
    return next((path for path in found if path and os.path.exists(path)), None)


def launch(play: Playwright, path: str) -> Browser:
    """A headless browser."""
    return play.chromium.launch(executable_path=path, args=list(_OPTIONS))


@contextlib.contextmanager
def served(folder: Path, **environment: str) -> Iterator[str]:
    """`unclip edit` on a free port, its folders and its log in `folder`; yields its address, and ends it by Ctrl-C."""
    command = [sys.executable, "-m", "comfyui_unclip.workflows.cli", "edit", "--no-browser", "--port", "0"]
    if frontend := os.environ.get("UNCLIP_EDITOR_FRONTEND"):
        command += ["--frontend", frontend]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
        )
        try:
            told = server.stdout.readline()
            if not told:
                raise RuntimeError(f"unclip edit did not start: {(folder / 'log').read_text()}")
            yield told.split()[-1]
        finally:
            server.send_signal(signal.SIGINT)
            try:
                ended = server.wait(60)
            finally:
                server.kill()
    if ended:
        raise RuntimeError(f"unclip edit ended with {ended}: {(folder / 'log').read_text()}")


class Desk:
    """One tab before one editor. `heard`: its messages as (kind, data); `errors`: what the page complained of."""

    def __init__(self, page: Page, address: str, folder: Path, pictures: Path):
        self.page, self.address, self.folder, self._pictures = page, address, folder, pictures
        self.heard: list[tuple[str, Any]] = []
        self.errors: list[str] = []
        self.console: list[tuple[str, str]] = []  # warnings and errors of the console, and the file they come from
        page.set_default_timeout(PATIENCE * 1000)
        page.on("websocket", lambda socket: socket.on("framereceived", self._take))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._note)

    def open(self) -> None:
        """Load the page and wait until it can be worked with."""
        self.page.goto(self.address, timeout=FIRST * 1000)
        self.page.wait_for_function(_READY, timeout=FIRST * 1000)
        self.page.wait_for_timeout(2000)

    def shoot(self, name: str) -> None:
        """A screenshot."""
        self.page.screenshot(path=self._pictures / f"{name}.png")

    def wait(self, test: Callable[[str, Any], bool], start: int = 0, patience: float = PATIENCE) -> tuple[str, Any]:
        """The first (kind, data) heard since `start` that passes the test."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if hit := next((entry for entry in self.heard[start:] if test(*entry)), None):
                return hit
            self.page.wait_for_timeout(30)
        raise TimeoutError(f"nothing came; the last were {[kind for kind, _ in self.heard[-8:]]}")

    def press_run(self) -> int:
        """Press Run, and return how many messages there were before."""
        start = len(self.heard)
        with self.page.expect_response(lambda answer: answer.url.endswith("/api/prompt")) as answer:
            self.page.get_by_test_id("queue-button").click()
        self.answer = answer.value
        return start

    def end_of(self, start: int, patience: float = PATIENCE) -> tuple[str, Any]:
        """How the run that was queued last ended."""
        job = self.answer.json()["prompt_id"]
        return self.wait(lambda kind, data: kind in ENDED and data["prompt_id"] == job, start, patience)

    def set(self, node: str, **values: Any) -> None:
        """Turn a node's widgets, found by its title."""
        self.page.evaluate(_SET, [node, values])

    def of(self, node: str, what: str) -> Any:
        """An expression of `node`, found by its title."""
        return self.page.evaluate(
            f"(title) => {{ const node = app.graph._nodes.find((n) => n.title === title); return {what} }}", node
        )

    def look_at(self, node: str) -> None:
        """Bring a node to the middle, large enough for its text fields to be there."""
        self.page.evaluate(_LOOK, node)
        self.page.wait_for_timeout(500)

    def close_messages(self) -> None:
        """Close what lies over the canvas."""
        self.page.keyboard.press("Escape")
        for button in self.page.locator(".p-toast-close-button").all():
            with contextlib.suppress(PageTimeout):
                button.click(timeout=2000)

    def load(self, graph: dict[str, Any], name: str | None = None) -> None:
        """Put a saved graph on the canvas, in a tab of its own. name: what the tab is called."""
        self.page.evaluate(
            "async ([graph, name]) => { await app.loadGraphData(graph, true, true, name) }", [graph, name]
        )
        self.page.wait_for_timeout(500)

    def open_template(self, name: str) -> None:
        """Click a graph in the gallery."""
        self.close_messages()
        self.page.get_by_role("button", name="Templates").first.click()
        self.page.get_by_text(name, exact=True).last.click()
        self.page.wait_for_function("() => !document.querySelector('.p-dialog, [role=dialog]')")
        self.page.wait_for_timeout(1000)

    def open_search(self, x: float, y: float) -> None:
        """Double-click on the canvas, again if a busy page took it for two clicks."""
        for _ in range(5):
            self.page.mouse.dblclick(x, y)
            with contextlib.suppress(PageTimeout):
                self.page.wait_for_function("() => document.activeElement?.tagName === 'INPUT'", timeout=10_000)
                return
        raise AssertionError("double-clicking opens no search")

    def drop(self, file: Path, kind: str = "image/png") -> None:
        """Let a file go over the canvas."""
        self.page.evaluate(_DROP, [file.name, kind, base64.b64encode(file.read_bytes()).decode()])

    def _take(self, frame: str | bytes) -> None:
        if isinstance(frame, str):
            message = json.loads(frame)
            self.heard.append((message["type"], message["data"]))
        elif int.from_bytes(frame[:4], "big") == 4:
            size = int.from_bytes(frame[4:8], "big")
            self.heard.append(("preview", json.loads(frame[8 : 8 + size])))

    def _note(self, message: Any) -> None:
        if message.type in ("warning", "error"):
            self.console.append((message.text, message.location.get("url", "")))
