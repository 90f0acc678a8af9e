"""Helpers of the tests that run graphs of paint_pack: the graph, the command line, what a run left behind."""

import json
import subprocess
import sys
from pathlib import Path

from comfyui_unclip.workflows.cli import run

PACK = Path(__file__).with_name("paint_pack.py")
GRAPH = {
    "1": {"class_type": "Caption", "inputs": {"text": "a"}, "_meta": {"title": "prompt"}},
    "2": {
        "class_type": "Paint",
        "inputs": {"caption": ["1", 0], "seed": 0, "scale": 1.0, "seconds": 0.0, "side": 4},
        "_meta": {"title": "decoder"},
    },
    "3": {
        "class_type": "SaveImage",
        "inputs": {"images": ["2", 0], "filename_prefix": "x"},
        "_meta": {"title": "save"},
    },
}


class Painting:
    """A graph file in a folder of its own, run by the command line into `out`."""

    graph, pack = GRAPH, PACK

    def __init__(self, folder, capsys=None):
        self.folder, self.out = folder, folder / "out"
        self.file = folder / "graph.json"
        self.file.write_text(json.dumps(GRAPH), encoding="utf-8")
        self._capsys = capsys

    def arguments(self, *more):
        return ["run", str(self.file), "--nodes", str(PACK), "-o", str(self.out), *map(str, more)]

    def __call__(self, *more):
        """(exit code, stdout, stderr) of a run in this process."""
        code = run(self.arguments(*more))
        return code, *self._capsys.readouterr()

    def start(self, *more, before=""):
        """The same in a process of its own. `before` is Python that runs first."""
        program = f"{before}\nimport sys\nfrom comfyui_unclip.workflows.cli import main\nmain()"
        command = [sys.executable, "-c", program, *self.arguments(*more)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def results(self):
        """The whole lines of results.jsonl by row; a row that is there twice fails the test."""
        found = {}
        for line in (self.out / "results.jsonl").read_text(encoding="utf-8").splitlines():
            try:
                data = json.loads(line)
            except ValueError:
                continue
            found.setdefault(data["row"], []).append(data)
        return found

    def write(self, name, text, encoding="utf-8"):
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return path
