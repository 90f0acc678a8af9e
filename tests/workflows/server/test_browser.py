"""The editor as a person meets it: `unclip edit` as a process, its page in a headless Chromium.

Needs a Chromium: $UNCLIP_CHROMIUM, one on the path (Debian: apt-get install chromium), or Playwright's own. Without one
these tests are skipped and say so; with UNCLIP_BROWSER_TESTS=required that is a failure. $UNCLIP_EDITOR_FRONTEND takes
another frontend's static folder. Screenshots go to .artifacts/editor/.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from playwright.sync_api import TimeoutError as PageTimeout
from playwright.sync_api import sync_playwright

PATIENCE = 90.0  # seconds for one step
FIRST = 300.0  # for the first load: minutes where cores are scarce
ENDED = ("execution_success", "execution_error", "execution_interrupted")
READY = "() => window.app?.graph && app.canvas && LiteGraph.registered_node_types['UnCLIPLoader']"
DROP = """async (bytes) => {
  const files = new DataTransfer()
  files.items.add(new File([new Uint8Array(bytes)], 'made.png', { type: 'image/png' }))
  const canvas = app.canvas.canvas
  const where = { bubbles: true, cancelable: true, dataTransfer: files, clientX: 900, clientY: 700 }
  for (const kind of ['dragenter', 'dragover', 'drop']) canvas.dispatchEvent(new DragEvent(kind, where))
}"""
# Where a slot of a node is on the screen.
SLOT = """([type, isInput, slot]) => {
  const node = app.graph._nodes.find((node) => node.type === type)
  const [x, y] = node.getConnectionPos(isInput, slot)
  const scale = app.canvas.ds.scale, [left, top] = app.canvas.ds.offset
  const box = app.canvas.canvas.getBoundingClientRect()
  return [box.left + (x + left) * scale, box.top + (y + top) * scale]
}"""


def chromium(play):
    """Path of a Chromium, or None for none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = [os.environ.get("UNCLIP_CHROMIUM"), *map(shutil.which, names), play.chromium.executable_path]
    return next((path for path in found if path and os.path.exists(path)), None)


class Desk:
    """One browser tab before one editor."""

    def __init__(self, page, address, folder, pictures):
        self.page, self.address, self.folder, self._pictures = page, address, folder, pictures
        self.heard, self.errors = [], []
        page.set_default_timeout(PATIENCE * 1000)
        page.on("websocket", lambda socket: socket.on("framereceived", self._take))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self):
        self.page.goto(self.address, timeout=FIRST * 1000)
        self.page.wait_for_function(READY, timeout=FIRST * 1000)
        self.page.wait_for_timeout(2000)

    def shoot(self, name):
        self.page.screenshot(path=self._pictures / f"{name}.png")

    def wait(self, test, start=0):
        """The first (kind, data) heard since `start` that passes the test."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if hit := next((entry for entry in self.heard[start:] if test(*entry)), None):
                return hit
            self.page.wait_for_timeout(30)
        raise TimeoutError(f"nothing came; the last were {[kind for kind, _ in self.heard[-8:]]}")

    def press_run(self):
        """Press Run, and return how many messages there were before."""
        start = len(self.heard)
        with self.page.expect_response(lambda answer: answer.url.endswith("/api/prompt")) as answer:
            self.page.get_by_test_id("queue-button").click()
        self.answer = answer.value
        return start

    def end_of(self, start):
        """How the run ended."""
        return self.wait(lambda kind, data: kind in ENDED, start)

    def set(self, node, **values):
        """Turn a node's widgets, found by its title."""
        change = """([title, values]) => {
          const node = app.graph._nodes.find((node) => node.title === title)
          for (const widget of node.widgets) if (widget.name in values) widget.value = values[widget.name]
        }"""
        self.page.evaluate(change, [node, values])

    def of(self, node, what):
        """An expression of `node`, found by its title."""
        return self.page.evaluate(
            f"(title) => {{ const node = app.graph._nodes.find((n) => n.title === title); return {what} }}", node
        )

    def look_at(self, node):
        """Bring a node to the middle, large enough for its text fields to be there."""
        look = """(title) => {
          const [x, y] = app.graph._nodes.find((node) => node.title === title).pos
          app.canvas.ds.scale = 1
          app.canvas.ds.offset[0] = 500 - x
          app.canvas.ds.offset[1] = 300 - y
          app.canvas.setDirty(true, true)
        }"""
        self.page.evaluate(look, node)
        self.page.wait_for_timeout(500)

    def close_messages(self):
        """Close what lies over the canvas."""
        self.page.keyboard.press("Escape")
        for button in self.page.locator(".p-toast-close-button").all():
            with contextlib.suppress(PageTimeout):
                button.click(timeout=2000)

    def open_template(self, name):
        self.close_messages()
        self.page.get_by_role("button", name="Templates").first.click()
        self.page.get_by_text(name, exact=True).last.click()
        self.page.wait_for_function("() => !document.querySelector('.p-dialog, [role=dialog]')")
        self.page.wait_for_timeout(1000)

    def open_search(self, x, y):
        """Double-click on the canvas, again if a busy page took it for two clicks."""
        for _ in range(5):
            self.page.mouse.dblclick(x, y)
            with contextlib.suppress(PageTimeout):
                self.page.wait_for_function("() => document.activeElement?.tagName === 'INPUT'", timeout=10_000)
                return
        raise AssertionError("double-clicking opens no search")

    def _take(self, frame):
        if isinstance(frame, str):
            message = json.loads(frame)
            self.heard.append((message["type"], message["data"]))
        elif int.from_bytes(frame[:4], "big") == 4:
            size = int.from_bytes(frame[4:8], "big")
            self.heard.append(("preview", json.loads(frame[8 : 8 + size])))


@pytest.fixture(scope="module")
def desk(tmp_path_factory, tiny_models, repository):
    folder = tmp_path_factory.mktemp("editor")
    pictures = repository / ".artifacts" / "editor"
    pictures.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        path = chromium(play)
        if path is None:
            reason = "NO BROWSER TEST WAS MADE: no Chromium; apt-get install chromium, or set UNCLIP_CHROMIUM"
            (pytest.fail if os.environ.get("UNCLIP_BROWSER_TESTS") == "required" else pytest.skip)(reason)
        frontend = os.environ.get("UNCLIP_EDITOR_FRONTEND")
        command = [sys.executable, "-m", "comfyui_unclip.workflows.cli", "edit", "--no-browser", "--port", "0"]
        command += ["--frontend", frontend] if frontend else []
        environment = {**os.environ, "UNCLIP_MODELS": str(tiny_models), "PYTHONUNBUFFERED": "1"}
        with open(folder / "log", "w") as log:
            server = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
            )
            try:
                address = server.stdout.readline().split()[-1]
                options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
                browser = play.chromium.launch(executable_path=path, args=options)
                context = browser.new_context(viewport={"width": 1600, "height": 900}, locale="en-US")
                made = Desk(context.new_page(), address, folder, pictures)
                made.open()
                yield made
                browser.close()
            finally:
                server.send_signal(signal.SIGINT)
                try:
                    assert server.wait(20) == 0
                finally:
                    server.kill()


def test_it_opens_with_a_graph_that_runs_here_and_says_what_it_is(desk):
    desk.shoot("open")
    assert desk.page.get_by_text("The unCLIP editor", exact=True).is_visible()
    assert desk.page.evaluate("() => app.graph._nodes.map((node) => node.type)").count("UnCLIPLoader") == 1
    assert not desk.errors


def test_a_template_is_opened_changed_and_run_to_its_picture(desk):
    desk.open_template("text_to_image")
    desk.shoot("template")
    desk.set("model", model_name="tiny")
    desk.set("decoder", steps=30)
    desk.look_at("prompt")
    desk.page.locator("textarea.comfy-multiline-input:visible").first.fill("a blue boat on the sea")
    start = desk.press_run()
    kind, data = desk.end_of(start)
    assert kind == "execution_success", data
    run = desk.heard[start:]
    decoder = str(desk.of("decoder", "node.id"))
    steps = [data["value"] for kind, data in run if kind == "progress" and data["node"] == decoder]
    assert steps == sorted(steps) and steps[-1] == 30 and len(steps) > 10
    assert decoder in {data["node_id"] for kind, data in run if kind == "preview"}
    desk.look_at("save")  # a picture is fetched when its node is drawn
    desk.page.wait_for_function("() => app.graph._nodes.find((node) => node.title === 'save').imgs?.[0]?.complete")
    assert desk.of("save", "node.imgs[0].naturalWidth") == 1024
    desk.shoot("picture")
    made = next((desk.folder / "out").glob("*.png"))
    assert "a blue boat on the sea" in Image.open(made).text["prompt"]


def test_cancel_stops_the_sampler_at_once(desk):
    desk.set("decoder", steps=1000, seed=77)
    start = desk.press_run()
    desk.wait(lambda kind, data: kind == "progress" and data["max"] == 1000 and data["value"] > 3, start)
    desk.shoot("running")
    desk.page.get_by_role("button", name="Cancel current run").click()
    kind, data = desk.end_of(start)
    assert kind == "execution_interrupted" and data["node_id"] == str(desk.of("decoder", "node.id"))
    desk.set("decoder", steps=3)
    assert desk.end_of(desk.press_run())[0] == "execution_success"


def test_a_broken_link_is_shown_on_its_node(desk):
    desk.page.evaluate("() => app.graph._nodes.find((node) => node.title === 'decoder').disconnectInput(0)")
    desk.press_run()
    assert desk.answer.status == 400
    decoder = str(desk.of("decoder", "node.id"))
    assert list(desk.answer.json()["node_errors"]) == [decoder]
    desk.page.wait_for_timeout(1500)
    desk.shoot("broken_link")
    assert list(desk.page.evaluate("() => app.lastNodeErrors")) == [decoder]
    assert desk.page.evaluate("() => app.graph._nodes.filter((n) => n.has_errors).map((n) => n.title)") == ["decoder"]


def test_a_made_picture_dropped_on_the_canvas_brings_its_graph(desk):
    desk.close_messages()
    desk.page.evaluate("() => app.graph.clear()")
    made = min((desk.folder / "out").glob("*.png"))
    desk.page.evaluate(DROP, list(made.read_bytes()))
    desk.page.wait_for_function("() => app.graph._nodes.some((node) => node.title === 'decoder')")
    desk.page.wait_for_timeout(1000)
    desk.shoot("dropped")
    assert desk.of("decoder", "node.widgets.find((widget) => widget.name === 'steps').value") == 30
    assert desk.of("prompt", "node.widgets[0].value") == "a blue boat on the sea"


def test_a_graph_from_an_empty_canvas_by_search(desk):
    page = desk.page
    desk.close_messages()
    page.get_by_role("button", name="Create a new blank workflow").click()
    page.wait_for_function("() => app.graph._nodes.length === 0")
    for words, title, x, kind in (
        ("example picture", "Example Picture (unCLIP)", 450, "UnCLIPExamplePicture"),
        ("save image", "Save Image", 950, "SaveImage"),
    ):
        desk.open_search(x, 450)
        page.keyboard.type(words, delay=20)
        page.get_by_text(title).first.wait_for()
        page.wait_for_timeout(1000)
        page.keyboard.press("Enter")
        page.wait_for_function("(kind) => app.graph._nodes.some((node) => node.type === kind)", arg=kind)
        page.wait_for_timeout(500)
        page.mouse.move(x, 350, steps=4)  # recent editors hang the new node on the mouse
        page.mouse.click(x, 350)
        page.wait_for_timeout(500)
    desk.shoot("searched")
    page.mouse.move(*page.evaluate(SLOT, ["UnCLIPExamplePicture", False, 0]))
    page.mouse.down()
    page.mouse.move(*page.evaluate(SLOT, ["SaveImage", True, 0]), steps=8)
    page.mouse.up()
    page.wait_for_function("() => app.graph.links.size === 1 || Object.keys(app.graph.links).length === 1")
    kind, data = desk.end_of(desk.press_run())
    assert kind == "execution_success", data
    page.wait_for_timeout(1000)
    desk.shoot("built")
    assert (desk.folder / "out" / "ComfyUI_00001_.png").is_file()


def test_in_chinese(desk):
    desk.page.evaluate("async () => { await app.extensionManager.setting.set('Comfy.Locale', 'zh') }")
    desk.page.wait_for_timeout(500)
    desk.open()
    desk.page.evaluate("""async () => {
      const graph = await (await fetch('/api/workflow_templates/comfyui-unclip/text_to_image.json')).json()
      for (const node of graph.nodes) delete node.title
      await app.loadGraphData(graph)
    }""")
    desk.page.wait_for_timeout(1500)
    desk.shoot("chinese")
    words = json.loads((desk.page.request.get(f"{desk.address}api/i18n")).text())["zh"]["nodeDefs"][
        "UnCLIPDecoderSample"
    ]
    shown = desk.page.evaluate("""() => {
      const node = app.graph._nodes.find((node) => node.type === 'UnCLIPDecoderSample')
      return [node.title, node.inputs[0].label ?? node.inputs[0].localized_name]
    }""")
    assert shown == [words["display_name"], words["inputs"]["decoder"]["name"]]


def test_nothing_went_wrong_in_the_page_or_the_server(desk):
    assert not desk.errors
    assert "Traceback" not in (desk.folder / "log").read_text()
