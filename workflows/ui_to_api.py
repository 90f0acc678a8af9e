"""From the editor's saved graph to the API form, as the editor's page does when one presses Run.

Resolved here: widget values by position, converted widgets, muted and bypassed nodes, Reroute, PrimitiveNode, notes.
Subgraphs are refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .graph import Problem, Prompt, node_name, node_title
from .schema import input_specs, types_fit, widget_places

NOTES = ("Note", "MarkdownNote")
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
VIRTUAL = (*NOTES, REROUTE, PRIMITIVE)
MUTED, BYPASSED = 2, 4


@dataclass(frozen=True)
class Origin:
    """Where an input's data comes from: an output of a real node."""

    node_id: Any
    slot: int


@dataclass(frozen=True)
class Constant:
    """A PrimitiveNode's value."""

    value: Any


@dataclass(frozen=True)
class Nothing:
    """The input gets nothing. `broken` says why when the file itself is wrong; `muted`: the origin is switched off."""

    muted: bool = False
    broken: str = ""


class UIGraph:
    """Nodes by id and links by id of one saved graph."""

    def __init__(self, data: dict):
        self.nodes = {node["id"]: node for node in data["nodes"]}
        self.links = dict(_read_link(link) for link in data.get("links") or [] if link)

    def resolve(self, link_id: Any, wanted: str) -> Origin | Constant | Nothing:
        """Follow a link backwards through reroutes and bypassed nodes to what feeds an input of type `wanted`."""
        seen = set()
        while link_id is not None:
            if link_id in seen:
                return Nothing(broken="its link runs in a circle of reroutes; link it to a node")
            seen.add(link_id)
            node_id, slot = self.links.get(link_id, (None, 0))
            node = self.nodes.get(node_id)
            if node is None:
                return Nothing(broken=f"its link {link_id} comes from a node that is not in the file; link it again")
            mode, kind = node.get("mode", 0), node["type"]
            if mode == MUTED:
                return Nothing(muted=True)
            if kind == REROUTE:
                link_id = _input_link(node, 0)
            elif kind == PRIMITIVE:
                values = node.get("widgets_values")
                return Constant(values[0]) if values else Nothing(broken=f"primitive {node_id} has no value; set one")
            elif mode == BYPASSED:
                link_id = _bypass(node, slot, wanted)
            else:
                return Origin(node_id, slot)
        return Nothing()


def _read_link(link: Any) -> tuple[Any, tuple[Any, int]]:
    """Link id -> (origin node id, origin slot). The saved target slot is not trusted: slots move."""
    if isinstance(link, dict):
        return link["id"], (link["origin_id"], link["origin_slot"])
    return link[0], (link[1], link[2])


def _input_link(node: dict, index: int) -> Any:
    inputs = node.get("inputs") or []
    return inputs[index].get("link") if index < len(inputs) else None


def _bypass(node: dict, slot: int, wanted: str) -> Any:
    """The link that feeds a consumer of type `wanted` past a bypassed node, or None.

    The editor's rule: the input of the same place if its type fits, else the first of exactly the wanted type, else
    the first that fits.
    """
    inputs = node.get("inputs") or []
    if not inputs:
        return None
    same = inputs[slot] if slot < len(inputs) else None
    if wanted == "*":
        return (same or inputs[0]).get("link")
    outputs = node.get("outputs") or []
    given = str(outputs[slot]["type"]) if slot < len(outputs) else "*"
    if same and types_fit(str(same["type"]), wanted) and types_fit(str(same["type"]), given):
        return same.get("link")
    exact = (entry for entry in inputs if str(entry["type"]) == wanted)
    fitting = (entry for entry in inputs if types_fit(str(entry["type"]), wanted))
    chosen = next(exact, None) or next(fitting, None)
    return chosen.get("link") if chosen else None


def convert(data: dict, classes: dict[str, type]) -> tuple[Prompt, list[Problem]]:
    """The API form of a saved graph, and what could not be converted.

    A node of an unknown class is kept, with its links alone, for preflight to name.
    """
    subgraphs = {
        entry.get("id"): entry.get("name", "?") for entry in data.get("definitions", {}).get("subgraphs") or []
    }
    graph = UIGraph(data)
    prompt: Prompt = {}
    problems: list[Problem] = []
    for node_id, node in graph.nodes.items():
        if node["type"] in VIRTUAL or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        if node["type"] in subgraphs:
            message = (
                f'is the subgraph "{subgraphs[node["type"]]}", which the headless runner does not open; '
                "unpack it in the editor and save again"
            )
            problems.append(Problem("invalid_prompt", message, f"node {node_id}"))
            continue
        inputs = _widgets(node, classes)
        problems += _links(graph, node, inputs, classes)
        prompt[str(node_id)] = {
            "inputs": inputs,
            "class_type": node["type"],
            "_meta": {"title": node_title(node, classes)},
        }
    return prompt, problems


def _widgets(node: dict, classes: dict[str, type]) -> dict[str, Any]:
    if node["type"] not in classes:
        return {}
    values = {name: widget_value(node, name, classes) for name in widget_places(classes[node["type"]])}
    # A bare list would read as a link, so the editor wraps list values.
    return {name: {"__value__": value} if isinstance(value, list) else value for name, value in values.items()}


def widget_value(node: dict, name: str, classes: dict[str, type]) -> Any:
    """The value that a saved node's widget shows: its place in `widgets_values`, else the declared default."""
    node_class = classes[node["type"]]
    default = input_specs(node_class)[name].default
    values = node.get("widgets_values") or []
    if isinstance(values, dict):
        return values.get(name, default)
    place = widget_places(node_class)[name]
    return values[place] if place < len(values) else default


def _links(graph: UIGraph, node: dict, inputs: dict[str, Any], classes: dict[str, type]) -> list[Problem]:
    """Put what the node's links carry into `inputs`, over the widgets."""
    problems = []
    for entry in node.get("inputs") or []:
        if entry.get("link") is None:
            continue
        name = (entry.get("widget") or {}).get("name") or entry["name"]
        found = graph.resolve(entry["link"], str(entry.get("type", "*")))
        if isinstance(found, Origin):
            inputs[name] = [str(found.node_id), found.slot]
        elif isinstance(found, Constant):
            inputs[name] = found.value
        elif found.broken:
            problems.append(Problem("bad_linked_input", found.broken, node_name(str(node["id"]), node, classes), name))
        elif found.muted:
            # The consumer of a muted node loses the input, even where a widget lies beneath the link.
            inputs.pop(name, None)
    return problems
