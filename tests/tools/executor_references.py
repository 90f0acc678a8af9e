"""Let a real ComfyUI run tests/workflows/executor_cases.py; what it did is the reference of the executor's tests.

    python tests/tools/executor_references.py COMFYUI_CHECKOUT      -> tests/data/executor_references.json

Run it with a Python that has the checkout's requirements. No server runs: its validation and its executor are called.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import inspect
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "data" / "executor_references.json"


def load(name: str, path: Path):
    """A module from a file, or a package from its folder."""
    spec = importlib.util.spec_from_file_location(name, path / "__init__.py" if path.is_dir() else path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Server:
    """Hears what the executor says."""

    client_id = "reference"
    last_node_id = None

    def __init__(self):
        self.heard = []

    def send_sync(self, event, data, sid=None):
        self.heard.append((event, data))

    def queue_updated(self):
        pass

    def send_progress_text(self, text, node_id, sid=None):
        pass


def new_executor(execution, server: Server):
    """An executor that keeps nothing of an earlier one, in the words of each version."""
    words = inspect.signature(execution.PromptExecutor).parameters
    return execution.PromptExecutor(server, **({"cache_args": {"lru": 0, "ram": 0}} if "cache_args" in words else {}))


def checked(execution, prompt: dict) -> tuple[bool, dict, list[str]]:
    """Whether a prompt is valid, what validation said, and the good outputs."""
    valid, error, good, node_errors = asyncio.run(execution.validate_prompt("reference", prompt, None))
    faults = {
        node_id: {
            "errors": sorted([fault["type"], fault["extra_info"].get("input_name", "")] for fault in entry["errors"]),
            "dependent_outputs": sorted(entry["dependent_outputs"]),
            "class_type": entry["class_type"],
        }
        for node_id, entry in node_errors.items()
    }
    return valid, {"error": error and error["type"], "good_outputs": sorted(good), "node_errors": faults}, good


def ran(executor, server: Server, prompt: dict, good: list[str]) -> dict:
    """What running it did."""
    server.heard.clear()
    executor.execute(prompt, "reference", {"client_id": "reference"}, good)
    failed = [data for event, data in server.heard if event == "execution_error"]
    (cached,) = [data["nodes"] for event, data in server.heard if event == "execution_cached"]
    started = [data["node"] for event, data in server.heard if event == "executing" and data["node"] is not None]
    shown = {data["node"]: data["output"] for event, data in server.heard if event == "executed" and data["output"]}
    return {
        "executed": sorted(set(started) - {data["node_id"] for data in failed}),
        "cached": sorted(cached),
        "ui": dict(sorted(shown.items())),
        "failed": [[data["node_id"], data["exception_type"].split(".")[-1]] for data in failed],
    }


def main() -> None:
    """Run every case in an executor of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    sys.argv = sys.argv[:1]
    sys.path.insert(0, str(arguments.comfyui))
    from comfy.cli_args import args

    args.cpu = True
    import comfyui_version
    import execution
    from comfy_execution.graph_utils import ExecutionBlocker

    import nodes

    pack = load("reference_pack", ROOT / "tests" / "data" / "test_pack")
    pack.NODE_CLASS_MAPPINGS["UnclipTestBlocked"].BLOCKER = ExecutionBlocker
    nodes.NODE_CLASS_MAPPINGS.update(pack.NODE_CLASS_MAPPINGS)
    cases = load("reference_cases", ROOT / "tests" / "workflows" / "executor_cases.py").CASES
    found = {}
    for name, prompts in cases.items():
        server_heard = Server()
        executor = new_executor(execution, server_heard)
        found[name] = []
        for original in prompts:
            prompt = json.loads(json.dumps(original))
            valid, outcome, good = checked(execution, prompt)
            ordered = [node_id for node_id in prompt if node_id in good]  # it gives them in the order of a set
            found[name].append(outcome | (ran(executor, server_heard, prompt, ordered) if valid else {}))
    references = {"comfyui": comfyui_version.__version__, "cases": found}
    arguments.out.write_text(json.dumps(references, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
