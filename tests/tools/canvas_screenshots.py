"""Pictures of graphs on the canvas of `unclip edit`, after a run: those in README and docs, or any others.

    pip install -e '.[test]'; apt-get install chromium
    python tests/tools/canvas_screenshots.py                        # docs/images/canvas_*.webp, as the pages show them
    python tests/tools/canvas_screenshots.py my.json -o out --png --size 1920x1080 --language zh --no-run

A graph is a file, or the name of one in workflows/. The whole graph is fitted to the view, with nothing lying over it.
The editor is started for this on a free port, in a folder of its own. The first form is to be run again, with the ones
that make the other pictures, when the weights or the graphs change.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from comfyui_unclip.tests.workflows.server.desk import Desk, chromium, launch, served

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "README.zh.md", "docs/*.md")
PREFIX = "canvas_"
LIMIT = 300 * 1024  # bytes of a picture
RUN = 1200.0  # seconds for a graph, on a slow machine
SIZE = (1600, 1000)
# Seeds stay what the graph says: the picture shows the values that made what it shows.
HOLD = """() => {
  for (const node of app.graph._nodes)
    for (const widget of node.widgets ?? []) if (widget.name === 'control_after_generate') widget.value = 'fixed'
}"""
MADE = "() => app.graph._nodes.every((node) => (node.imgs ?? []).every((picture) => picture.complete))"
# Every node and group, in what the page's own bars, which float over the canvas, leave free: left, top, right, bottom.
FIT = """([barLeft, barTop, barRight, barBottom]) => {
  const groups = app.graph._groups.map((group) => group._bounding)
  const boxes = [...app.graph._nodes.map((node) => node.getBounding()), ...groups]
  const left = Math.min(...boxes.map((box) => box[0])), top = Math.min(...boxes.map((box) => box[1]))
  const width = Math.max(...boxes.map((box) => box[0] + box[2])) - left
  const height = Math.max(...boxes.map((box) => box[1] + box[3])) - top
  const view = app.canvas.canvas.getBoundingClientRect()
  const startX = Math.max(barLeft - view.left, 0), startY = Math.max(barTop - view.top, 0)
  const free = [innerWidth - view.left - startX - barRight, innerHeight - view.top - startY - barBottom]
  const scale = Math.min(free[0] / width, free[1] / height, 1)
  app.canvas.ds.scale = scale
  app.canvas.ds.offset[0] = (startX + (free[0] - width * scale) / 2) / scale - left
  app.canvas.ds.offset[1] = (startY + (free[1] - height * scale) / 2) / scale - top
  app.canvas.min_font_size_for_lod = 0
  app.canvas.deselectAll?.()
  app.canvas.setDirty(true, true)
}"""
BARS = (72, 96, 16, 64)
# Messages come and go by themselves, the view stays.
QUIET = (
    ".p-toast, #unclip-welcome, [role=tooltip], [data-testid=queue-notification-banner] { display: none !important }"
)


def shown_on_pages(root: Path = ROOT) -> list[str]:
    """Names of the graphs whose canvas a page shows."""
    texts = [path.read_text("utf-8") for pattern in PAGES for path in root.glob(pattern)]
    return sorted({name for text in texts for name in re.findall(rf"images/{PREFIX}(\w+)\.webp", text)})


def read_graph(name: str, root: Path = ROOT) -> dict[str, Any]:
    """A saved graph by its file, or by its name in workflows/. Raises ValueError."""
    path = Path(name) if Path(name).is_file() else root / "workflows" / f"{name.removesuffix('.json')}.json"
    if not path.is_file():
        raise ValueError(f"{name}: no such file, and no graph of this name in {root / 'workflows'}")
    return json.loads(path.read_text("utf-8"))


def parse_size(text: str) -> tuple[int, int]:
    """1600x900 -> (1600, 900). Raises ValueError."""
    found = re.fullmatch(r"(\d{3,4})x(\d{3,4})", text)
    if not found:
        raise ValueError(f"{text!r} is no size; give pixels as 1600x900")
    return int(found[1]), int(found[2])


def save(screenshot: bytes, path: Path) -> int:
    """As the best WebP within the limit (a PNG is what it is), written at once or not at all; returns its size."""
    data = screenshot
    if path.suffix == ".webp":
        with Image.open(io.BytesIO(screenshot)) as opened:
            picture = opened.convert("RGB")
        for quality in (90, 80, 70, 60, 50, 40, 30):
            buffer = io.BytesIO()
            picture.save(buffer, "WEBP", quality=quality, method=6)
            data = buffer.getvalue()
            if len(data) <= LIMIT:
                break
        else:
            raise ValueError(
                f"{path.name}: {len(data)} bytes at the lowest quality, more than {LIMIT}; make it smaller"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_bytes(data)
    temporary.replace(path)
    return len(data)


def shoot(desk: Desk, graph: dict[str, Any], name: str, run: bool = True) -> bytes:
    """Put a graph on the canvas, run it, and return the page as PNG. Raises RuntimeError when the run fails."""
    desk.load(graph, name)
    if run:
        desk.page.evaluate(HOLD)
        kind, data = desk.end_of(desk.press_run(), RUN)
        if kind != "execution_success":
            raise RuntimeError(f"{kind}: {data.get('exception_message', data)}")
    desk.page.evaluate(FIT, BARS)  # pictures are fetched when their nodes are drawn
    desk.page.wait_for_timeout(2500)
    desk.page.wait_for_function(MADE)
    desk.page.evaluate(FIT, BARS)  # they, and what stands beside them, have made their nodes grow
    style = desk.page.add_style_tag(content=QUIET)
    desk.page.mouse.move(BARS[0], desk.page.viewport_size["height"] - 8)  # where nothing answers to it
    desk.page.wait_for_timeout(1500)
    picture = desk.page.screenshot()
    style.evaluate("(element) => element.remove()")
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", nargs="*", help="files, or names in workflows/; none: those that the pages show")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--size", type=parse_size, default=SIZE, help="pixels, as 1600x1000")
    parser.add_argument("--language", default="en", help="en or zh")
    parser.add_argument("--png", action="store_true", help="PNG instead of WebP")
    parser.add_argument("--no-run", action="store_true", help="the graph as it opens")
    options = parser.parse_args()
    names = options.graphs or shown_on_pages()
    graphs = {Path(name).stem: read_graph(name) for name in names}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, sync_playwright() as play:
        folder = Path(name)
        path = chromium(play)
        if path is None:
            parser.error("no Chromium; apt-get install chromium, or set UNCLIP_CHROMIUM")
        with served(folder) as address:
            browser = launch(play, path)
            width, height = options.size
            page = browser.new_page(viewport={"width": width, "height": height}, locale=options.language)
            desk = Desk(page, address, folder, folder)
            desk.open()
            desk.close_messages()
            for stem, graph in graphs.items():
                target = options.output / f"{PREFIX}{stem}.{'png' if options.png else 'webp'}"
                size = save(shoot(desk, graph, stem, not options.no_run), target)
                print(f"{target}: {width} x {height}, {size / 1024:.0f} KB")
            browser.close()


if __name__ == "__main__":
    main()
