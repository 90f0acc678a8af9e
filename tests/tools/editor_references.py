"""Let the editor itself export saved graphs, and keep the exports as references for the converter's tests.

    pip install playwright comfyui-frontend-package==1.35.9
    python tests/tools/editor_references.py                     # every workflows/*.json -> tests/data/editor/*.json
    python tests/tools/editor_references.py case.json -o out/   # any graph of our nodes
    python tests/tools/editor_references.py --cases             # tests/workflows/editor_cases.py -> tests/data/
    options: --frontend DIR (an unpacked frontend's static folder), --chromium PATH, --object-info FILE

No server runs: the page gets the frontend's files, and our node classes as /object_info, from this script.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import mimetypes
from pathlib import Path
from urllib.parse import urlparse

from playwright.sync_api import Page, Route, sync_playwright

from comfyui_unclip.tests.workflows import editor_cases
from comfyui_unclip.workflows.document.schema import node_classes
from comfyui_unclip.workflows.server.object_info import describe_all

ROOT = Path(__file__).resolve().parents[2]
EXPORT = """async (graph) => {
  await app.loadGraphData(graph, true, false)
  const { output } = await app.graphToPrompt()
  return output
}"""
ANSWERS = {
    "/api/users": {"storage": "server", "migrated": True},
    "/api/settings": {"Comfy.TutorialCompleted": True, "Comfy.Workflow.ShowMissingNodesWarning": False},
    "/api/extensions": [],
}


def serve(page: Page, static: Path, info: dict) -> None:
    """Answer every request of the page from the frontend's folder and `info`."""
    answers = {**ANSWERS, "/api/object_info": info}

    def answer(route: Route) -> None:
        path = urlparse(route.request.url).path
        if path in answers:
            route.fulfill(json=answers[path])
            return
        file = static / (path.lstrip("/") or "index.html")
        if file.is_file():
            kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            route.fulfill(body=file.read_bytes(), content_type=kind)
        else:
            route.fulfill(status=404, body="")

    page.route("**/*", answer)
    page.route_web_socket("**/ws*", lambda socket: socket.send(json.dumps({"type": "status", "data": {"sid": "x"}})))


def export(graphs: dict[str, dict], static: Path, info: dict, chromium: str | None) -> dict[str, dict]:
    """The editor's API export of each graph, by the same keys."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        serve(page, static, info)
        page.goto("http://editor.invalid/", timeout=240_000)
        page.wait_for_function("() => window.app?.graph && window.app.canvas", timeout=240_000)
        page.wait_for_function("(name) => LiteGraph.registered_node_types[name]", arg=next(iter(info)), timeout=240_000)
        page.wait_for_timeout(1500)
        exported = {}
        for name, graph in graphs.items():
            try:
                exported[name] = page.evaluate(EXPORT, graph)
            except Exception as error:
                exported[name] = {"error": str(error).splitlines()[0]}
        browser.close()
    return exported


def write_cases(static: Path, chromium: str | None) -> None:
    """Export the hand-made cases."""
    exported = export(editor_cases.CASES, static, describe_all(editor_cases.classes()), chromium)
    for name in (name for name, prompt in exported.items() if "error" in prompt):
        print(f"{name}: {exported[name]['error']}")
    for prompt in exported.values():
        for node in (node for node in prompt.values() if isinstance(node, dict)):
            node.pop("_meta", None)
    rows = ",\n".join(f" {json.dumps(name)}: {json.dumps(prompt, sort_keys=True)}" for name, prompt in exported.items())
    (ROOT / "tests/data/editor_cases.json").write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")
    print(f"{len(exported)} cases")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", nargs="*", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "tests" / "data" / "editor")
    parser.add_argument("--frontend", type=Path)
    parser.add_argument("--chromium", default=None)
    parser.add_argument("--object-info", type=Path)
    parser.add_argument("--cases", action="store_true")
    options = parser.parse_args()
    static = options.frontend
    if static is None:
        static = Path(importlib.util.find_spec("comfyui_frontend_package").origin).parent / "static"
    if options.cases:
        write_cases(static, options.chromium)
        return
    # Those of ComfyUI's own nodes are left out: they are not known here.
    shipped = [path for path in sorted((ROOT / "workflows").glob("*.json")) if not path.stem.endswith("_comfyui")]
    files = options.graphs or shipped
    graphs = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in files}
    if options.object_info:
        info = json.loads(options.object_info.read_text(encoding="utf-8"))
    else:
        info = describe_all(node_classes())
    options.output.mkdir(parents=True, exist_ok=True)
    for name, prompt in export(graphs, static, info, options.chromium).items():
        (options.output / name).write_text(json.dumps(prompt, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"{name}: {prompt.get('error') or f'{len(prompt)} nodes'}")


if __name__ == "__main__":
    main()
