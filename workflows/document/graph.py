"""The API form of a graph: links, ancestors, order and cycles, the names of nodes, and what can be wrong (Problem).

The executor runs this form, which is the editor's own:
{"<id>": {"class_type": ..., "inputs": {name: constant | ["<id>", output index]}, "_meta": {"title": ...}}}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from ...unclip_core.texts import one_line
from .schema import display_title

Prompt = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Problem:
    """One thing that keeps a graph from running. `kind` uses the editor's names of validation errors."""

    kind: str
    message: str  # what is wrong, with the value, and the fix
    node: str = ""  # as named by `node_name`
    input: str = ""

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.node, self.input) if part)
        return one_line(f"{place}: {self.message}" if place else self.message)


class WorkflowError(ValueError):
    """A workflow cannot run; `problems` lists everything that was found."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


def is_link(value: Any) -> bool:
    """True for ["<id>", output index]."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def node_name(node_id: str, node: dict, classes: dict[str, type]) -> str:
    """How messages name a node: `node 5 "decoder" (UnCLIPDecoderSample)`."""
    class_type = node.get("class_type") or node.get("type") or "?"
    title = node_title(node, classes)
    return f'node {node_id} "{title}" ({class_type})' if title != class_type else f"node {node_id} ({class_type})"


def node_title(node: dict, classes: dict[str, type]) -> str:
    """The title saved in the graph, else the class's own. Takes nodes of both forms."""
    class_type = node.get("class_type") or node.get("type") or "?"
    return saved_title(node) or display_title(class_type, classes)


def saved_title(node: dict) -> str | None:
    """The title that the file itself carries, or None."""
    meta = node.get("_meta")
    return node.get("title") or (meta.get("title") if isinstance(meta, dict) else None)


def saved_origin(node: dict) -> dict[str, str]:
    """The "pack" that a node comes from and its "version", as far as the file says. Takes nodes of both forms: the
    editor writes them among a saved node's properties, `to_api` takes them over for classes that are not known."""
    meta, properties = node.get("_meta"), node.get("properties")
    if isinstance(meta, dict) and isinstance(meta.get("origin"), dict):
        given = meta["origin"]
    elif isinstance(properties, dict):
        # cnr_id: the name in ComfyUI's registry. aux_id: owner/repository on GitHub, of packs that are not in there.
        given = {"pack": properties.get("cnr_id") or properties.get("aux_id"), "version": properties.get("ver")}
    else:
        return {}
    origin = {key: given.get(key) for key in ("pack", "version")}
    told = {key: value for key, value in origin.items() if isinstance(value, str) and value}
    if re.fullmatch("[0-9a-f]{40}", told.get("version", "")):  # a commit
        told["version"] = told["version"][:8]
    return told


def links_of(node: dict) -> dict[str, tuple[str, int]]:
    """The linked inputs of an API node: name -> (origin id, output index)."""
    inputs = node.get("inputs")
    return {name: (v[0], v[1]) for name, v in inputs.items() if is_link(v)} if isinstance(inputs, dict) else {}


def ancestors(prompt: Prompt, targets: Iterable[str]) -> set[str]:
    """The targets and every existing node they need."""
    found: set[str] = set()
    waiting = list(targets)
    while waiting:
        node_id = waiting.pop()
        if node_id in found or node_id not in prompt:
            continue
        found.add(node_id)
        waiting.extend(origin for origin, _ in links_of(prompt[node_id]).values())
    return found


def origins_among(prompt: Prompt, wanted: Iterable[str]) -> dict[str, list[str]]:
    """Per node of `wanted`, the nodes of `wanted` that it is linked to, in the prompt's order."""
    wanted = set(wanted)
    return {
        node_id: [origin for origin, _ in links_of(node).values() if origin in wanted]
        for node_id, node in prompt.items()
        if node_id in wanted
    }


def topological_order(origins: Mapping[str, Iterable[str]]) -> tuple[list[str], list[str]]:
    """Ids in an order that has every origin before its users, and the ids along one cycle ([] when there is none).

    `origins` has for each id what it needs. What lies on a cycle, or needs something that does, is not in the order.
    The cycle runs in the direction that data would flow. Where there is a choice, a node comes right after its last
    origin.
    """
    sorter = TopologicalSorter(origins)
    cycle: list[str] = []
    try:
        sorter.prepare()
    except CycleError as error:  # the sorter still gives what no cycle blocks
        cycle = error.args[1][1:]  # its first id comes again at the end
    order: list[str] = []
    ready = list(reversed(sorter.get_ready()))
    while ready:
        order.append(ready.pop())
        sorter.done(order[-1])
        ready += reversed(sorter.get_ready())
    return order, cycle
