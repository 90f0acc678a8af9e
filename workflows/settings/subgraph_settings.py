"""What can be set inside subgraphs: the widgets of their nodes, and those that their instances show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..document.graph import Workflow, saved_title
from ..document.schema import InputSpec, display_title
from ..document.subgraphs import Scope, Unfolded
from ..document.ui_graph import File, Graph, proxied
from .overrides import Setting


def subgraph_settings(workflow: Workflow, classes: dict[str, type]) -> list[Setting]:
    """The settings of every instance of a subgraph and of the nodes in it, with the ids of the API form: "6:2".

    A definition that several instances share is listed once, and its nodes are `shared`.
    """
    file = File(workflow.data, classes)
    try:
        unfolded = Unfolded(file)
    except ValueError:  # conversion says what is wrong
        return []
    uses = Counter(id(scope.graph) for scope in unfolded.scopes)
    found: list[Setting] = []
    seen: set[int] = set()
    for scope in unfolded.scopes:
        if id(scope.graph) in seen:
            continue
        seen.add(id(scope.graph))
        shared = uses[id(scope.graph)] > 1
        for node_id, node in scope.graph.nodes.items():
            if scope.graph.subgraph(node):
                found += _instance(unfolded, scope, node_id, shared)
            elif scope.parent is not None and node["type"] in classes:
                found += _inner(scope, node_id, shared, classes)
    return found


def _inner(scope: Scope, node_id: str, shared: bool, classes: dict[str, type]) -> Iterator[Setting]:
    graph, node = scope.graph, scope.graph.nodes[node_id]
    title = saved_title(node) or display_title(node["type"], classes)
    linked = {socket.widget for socket in graph.sockets(node_id) if socket.link is not None}
    values = graph.values(node_id)
    for spec in graph.file.schemas[node["type"]].inputs.values():
        if spec.is_widget and spec.name in values:
            place = f"{scope.prefix}{node_id}"
            value, fed = values[spec.name], spec.name in linked
            yield Setting(place, node, title, saved_title(node), spec, value, fed, shared)


def _instance(unfolded: Unfolded, scope: Scope, node_id: str, shared: bool) -> Iterator[Setting]:
    graph, node = scope.graph, scope.graph.nodes[node_id]
    title = saved_title(node) or graph.subgraph(node).name
    links = {socket.name for socket in graph.sockets(node_id) if socket.link is not None}
    for name, value in unfolded.promoted(graph, node_id).items():
        if spec := _promoted_spec(graph, node_id, name):
            own = replace(spec, name=name)
            yield Setting(f"{scope.prefix}{node_id}", node, title, title, own, value, name in links, shared)


def _promoted_spec(graph: Graph, node_id: str, name: str) -> InputSpec | None:
    """What the widget inside declares that an instance's widget stands for."""
    inner = graph.subgraph(graph.nodes[node_id])
    for slot, entry in enumerate(inner.inputs):
        for link in inner.entering.get(slot, ()) if str(entry.get("name")) == name else ():
            user_id, socket = inner.user(link) or (None, None)
            if user_id is None:
                continue
            kind = inner.nodes[user_id]["type"]
            if inner.subgraph(inner.nodes[user_id]):
                return _promoted_spec(inner, user_id, socket.name)
            if kind in inner.file.classes and socket.widget:
                return inner.file.schemas[kind].inputs.get(socket.widget)
    return None


def write_promoted(workflow: Workflow, setting: Setting, value: Any, classes: dict[str, type]) -> None:
    """Set a widget that an instance shows. Raises ValueError where the file has no place for it alone."""
    node, name = setting.node, setting.spec.name
    before = _promoted(workflow, node, classes)
    wanted, saved = before | {name: value}, node.get("widgets_values")
    if isinstance(saved, dict):
        node["widgets_values"] = saved | {name: value}
        return
    shown = [inner_name if inner_id == "-1" else None for inner_id, inner_name in proxied(node)]
    for names in (shown, list(before)):  # the order that is shown counts; without it, the inputs' own
        if name in names:
            filled = [before.get(entry, "fixed") for entry in names]
            values = [*(saved or []), *filled[len(saved or []) :]]
            values[names.index(name)] = value
            node["widgets_values"] = values
            if _promoted(workflow, node, classes) == wanted:
                return
    node["widgets_values"] = saved
    raise ValueError(
        f"{setting.name} has no place of its own in the file; set it in the editor, or inside the subgraph"
    )


def _promoted(workflow: Workflow, node: dict, classes: dict[str, type]) -> dict[str, Any]:
    unfolded = Unfolded(File(workflow.data, classes))
    for scope in unfolded.scopes:
        for node_id, candidate in scope.graph.nodes.items():
            if candidate is node:
                return dict(unfolded.promoted(scope.graph, node_id))
    return {}
