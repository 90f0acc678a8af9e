"""Runs a checked API prompt: each node once, origins before users, under inference mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from ..nodes.host import Host, use_host
from .graph import Prompt, ancestors, is_link, links_of, node_name, topological_order
from .schema import input_specs, node_schema
from .validation import output_nodes


class NodeError(RuntimeError):
    """A node failed. The message names it; `__cause__` is what it raised."""


def execute(
    prompt: Prompt,
    classes: dict[str, type],
    host: Host,
    extra_pnginfo: dict[str, Any] | None = None,
    on_output: Callable[[str, dict[str, list]], None] | None = None,
) -> dict[str, dict[str, list]]:
    """Run what the output nodes need and return their `ui` results by node id.

    `prompt` must have passed preflight. `extra_pnginfo` goes into saved pictures beside the prompt. `on_output` hears
    of each output as soon as it exists. Raises NodeError for the first node that fails.
    """
    import torch

    outputs = output_nodes(prompt, classes)
    wanted = ancestors(prompt, outputs)
    # A result is dropped once its last user ran: pictures and embeddings need not outlive the graph's middle.
    users = Counter(origin for node_id in wanted for origin in {o for o, _ in links_of(prompt[node_id]).values()})
    results: dict[str, tuple] = {}
    shown: dict[str, dict[str, list]] = {}
    with use_host(host), torch.inference_mode():
        for node_id in topological_order(prompt, wanted, early=outputs):  # what is done is saved before slow work
            host.check_interrupt()
            results[node_id], ui = _run_node(node_id, prompt, classes, results, extra_pnginfo)
            if ui:
                shown[node_id] = ui
                if on_output:
                    on_output(node_id, ui)
            for origin in {o for o, _ in links_of(prompt[node_id]).values()}:
                users[origin] -= 1
                if not users[origin]:
                    del results[origin]
    return shown


def _run_node(
    node_id: str,
    prompt: Prompt,
    classes: dict[str, type],
    results: dict[str, tuple],
    extra_pnginfo: dict[str, Any] | None,
) -> tuple[tuple, dict[str, list]]:
    node = prompt[node_id]
    node_class = classes[node["class_type"]]
    arguments = _arguments(node_id, prompt, node_class, results, extra_pnginfo)
    try:
        answer = getattr(node_class(), node_class.FUNCTION)(**arguments)
    except Exception as error:
        raise NodeError(f"{node_name(node_id, node, classes)}: {str(error) or type(error).__name__}") from error
    if isinstance(answer, dict):
        if "expand" in answer:
            raise NodeError(
                f"{node_name(node_id, node, classes)}: expands into a graph, which a headless run cannot do"
            )
        return tuple(answer.get("result", ())), answer.get("ui", {})
    return tuple(answer or ()), {}


def _arguments(
    node_id: str, prompt: Prompt, node_class: type, results: dict[str, tuple], extra_pnginfo: dict[str, Any] | None
) -> dict[str, Any]:
    """Declared constants, every link (declared or not), and the hidden inputs."""
    declared = input_specs(node_class)
    arguments = {}
    for name, value in prompt[node_id]["inputs"].items():
        if is_link(value):
            arguments[name] = results[value[0]][value[1]]
        elif name in declared:
            arguments[name] = value
    hidden = {"PROMPT": prompt, "EXTRA_PNGINFO": extra_pnginfo, "UNIQUE_ID": node_id}
    return arguments | {name: hidden[kind] for name, kind in node_schema(node_class).hidden.items() if kind in hidden}
