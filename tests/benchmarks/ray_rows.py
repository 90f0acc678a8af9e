"""Rows on a local Ray cluster of two workers, one of which is killed in the middle: every row exactly once.

    pip install 'unclip[ray]'
    python tests/benchmarks/ray_rows.py

Run by hand: Ray is too large for CI (80 MB, 300 MB installed) and takes longer to start than all rows to run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from PIL import Image

from comfyui_unclip.workflows import load, run

PACK = Path(__file__).parents[1] / "workflows" / "paint_pack.py"
GRAPH = {
    "1": {"class_type": "Caption", "inputs": {"text": "a"}},
    "2": {
        "class_type": "Paint",
        "inputs": {"caption": ["1", 0], "seed": 0, "scale": 1.0, "seconds": 0.3, "side": 4},
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}
ROWS = 24


def main() -> None:
    """Kill a worker after six rows, then hold the folder against what was asked for."""
    import ray

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "graph.json").write_text(json.dumps(GRAPH))
        pids: set[int] = set()
        ended: list[int] = []

        def after_each(result) -> None:
            ended.append(result.row)
            if len(ended) == 6:
                victim = next(iter(_workers()))
                pids.add(victim)
                os.kill(victim, signal.SIGKILL)
                print(f"killed worker {victim} after rows {ended}")

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
        began = time.monotonic()
        options = {"output": folder / "out", "nodes": (PACK,), "ray": "local", "workers": 2}
        report = run(load(folder / "graph.json"), sweep={"seed": range(ROWS)}, on_result=after_each, **options)
        seconds = time.monotonic() - began
        lines = [json.loads(line) for line in (folder / "out" / "results.jsonl").read_text().splitlines()]
        assert Counter(line["row"] for line in lines) == dict.fromkeys(range(1, ROWS + 1), 1), (
            "a row is missing or double"
        )
        assert not report.failed and len(report.files) == len(list((folder / "out").glob("*.png"))) == ROWS
        for row, file in zip(report.rows, report.files, strict=True):
            assert Image.open(file).getpixel((0, 0))[0] == 16 + row.row - 1
        print(f"{ROWS} rows once each in {seconds:.1f} s; warned: {report.warnings}")
        again = run(load(folder / "graph.json"), sweep={"seed": range(ROWS)}, resume=True, **options)
        assert len(again.rows) == ROWS and len(list((folder / "out").glob("*.png"))) == ROWS
        print("resumed: nothing left to do")


def _workers() -> list[int]:
    """Process ids of the actors that hold rows."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")[0]
            except OSError:
                continue
            if command.startswith(b"ray::Worker"):
                found.append(int(entry.name))
    return found or sys.exit("no worker found")


if __name__ == "__main__":
    main()
