"""Many rows: time per row beside the nodes' own, and memory from the first hundred rows to the last.

    python tests/benchmarks/headless_rows.py [--rows 1000]

Also the start of `unclip --help` and `unclip validate`. Targets: memory flat over 1,000 rows, starts under 1 s.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from comfyui_unclip.workflows import load, run

ROOT = Path(__file__).parents[2]
PACK = ROOT / "tests" / "workflows" / "paint_pack.py"
GRAPH = {
    "1": {"class_type": "Caption", "inputs": {"text": "a"}},
    "2": {
        "class_type": "Paint",
        "inputs": {"caption": ["1", 0], "seed": 0, "scale": 1.0, "seconds": 0.0, "side": 64},
    },
    "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    rows = parser.parse_args().rows
    for command in (["--help"], ["validate", str(ROOT / "workflows" / "text_to_image.json")]):
        program = "from comfyui_unclip.workflows.cli import main; main()"
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", program, *command], check=True, capture_output=True)
        print(f"unclip {command[0]}: {time.monotonic() - began:.2f} s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "graph.json").write_text(json.dumps(GRAPH))
        seen: list[tuple[float, float]] = []

        def after_each(result) -> None:
            seen.append((time.monotonic(), _resident()))

        began = time.monotonic()
        sweep = {"text": [f"caption {number}" for number in range(rows // 10)], "seed": range(10)}
        options = {"output": folder / "out", "nodes": (PACK,), "on_result": after_each}
        report = run(load(folder / "graph.json"), sweep=sweep, **options)
        assert len(report.rows) == rows // 10 * 10 and not report.failed
        own = sum(sum(row.node_seconds.values()) for row in report.rows)
        print(f"{len(seen)} rows in {seen[-1][0] - began:.1f} s, checks before the first included")
        print(f"beside the nodes: {1000 * (seen[-1][0] - seen[0][0] - own) / len(seen):.2f} ms a row")
        early, late = seen[len(seen) // 10][1], seen[-1][1]
        print(f"memory after {len(seen) // 10} rows {early:.1f} MB, after {len(seen)} {late:.1f} MB")


def _resident() -> float:
    """Resident memory in MB; its peak where the system tells no more."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
