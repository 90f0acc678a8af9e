"""Speed of headless runs: `python tests/benchmarks/headless.py [--nodes 1000]`. Times are the best of several.

Targets: validation of 1,000 nodes under 50 ms, the executor's own work under 0.2 ms a node.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

from comfyui_unclip.nodes.host import LocalHost
from comfyui_unclip.workflows.engine.session import Session


class Number:
    """No work: one constant."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"default": 1, "min": 0, "max": 1_000_000})}}

    def go(self, value):
        return (value,)


class Add:
    """Hardly any work: two links and a constant."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        socket = ("INT", {"forceInput": True})
        return {"required": {"a": socket, "b": socket, "c": ("INT", {"default": 0, "min": 0, "max": 1_000_000})}}

    def go(self, a, b, c):
        return (a + b + c & 0xFFFF,)


class Show:
    """An output."""

    RETURN_TYPES = ()
    FUNCTION = "go"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"forceInput": True})}}

    def go(self, value):
        return {"ui": {"value": [value]}}


CLASSES = {cls.__name__: cls for cls in (Number, Add, Show)}


def graph(nodes: int, start: int = 0) -> dict:
    """A prompt of so many nodes: two constants, sums of the two sums before, one output."""
    prompt = {str(i): {"class_type": "Number", "inputs": {"value": start + i}} for i in range(2)}
    for i in range(2, nodes - 1):
        inputs = {"a": [str(i - 1), 0], "b": [str(i - 2), 0], "c": i}
        prompt[str(i)] = {"class_type": "Add", "inputs": inputs}
    prompt[str(nodes - 1)] = {"class_type": "Show", "inputs": {"value": [str(nodes - 2), 0]}}
    return prompt


def best(work: Callable[[], object], times: int = 7) -> float:
    """Seconds of the quickest of several calls."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def measure(nodes: int) -> dict[str, float]:
    """Milliseconds of each part on a graph of so many trivial nodes."""
    prompt = graph(nodes)
    session = Session(LocalHost(quiet=True), CLASSES)
    validation = session.validate(prompt)
    assert validation.good_outputs == [str(nodes - 1)], validation.error
    starts = iter(range(1_000_000))
    first = {
        limit: best(lambda limit=limit: Session(LocalHost(quiet=True), CLASSES, cache_limit=limit).run(prompt))
        for limit in (None, 0)
    }
    changed = best(lambda: session.run(graph(nodes, 2 + next(starts))))
    session.run(prompt)
    return {
        "validate_ms": 1000 * best(lambda: session.validate(prompt)),
        "run_ms_per_node": 1000 * first[None] / nodes,
        "run_without_cache_ms_per_node": 1000 * first[0] / nodes,
        "run_all_changed_ms_per_node": 1000 * changed / nodes,
        "run_all_cached_ms": 1000 * best(lambda: session.run(prompt)),
    }


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    nodes = parser.parse_args().nodes
    print(json.dumps({"nodes": nodes} | {name: round(value, 4) for name, value in measure(nodes).items()}))


if __name__ == "__main__":
    main()
