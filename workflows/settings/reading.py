"""What can be set in a graph of either form: the widgets of its nodes, of those inside subgraphs, and of instances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..document.graph import Prompt, is_link, node_title, saved_title
from ..document.reading import Workflow
from ..document.schema import InputSpec, NodeClasses, with_schemas
from ..document.subgraphs import Unfolded
from ..document.ui_graph import PRIMITIVE, File, Graph


@dataclass(frozen=True)
class Setting:
    """One widget of one node that a user may set."""

    node_id: str  # as in the API form: "6:2" is node 2 inside the instance 6 of a subgraph
    node: dict  # the node inside the workflow's data
    title: str
    saved_title: str | None
    spec: InputSpec
    value: Any
    linked: bool  # another node feeds it, so its own value is not used
    shared: bool = False  # in a subgraph that is used several times: the value is that of all of them

    @property
    def name(self) -> str:
        """`title.input`, as `-s` takes it."""
        return f"{self.title}.{self.spec.name}"


@dataclass(frozen=True)
class _Node:
    """A node with all that it declares and shows, of either form."""

    node_id: str
    node: dict
    title: str
    saved_title: str | None
    specs: Mapping[str, InputSpec]
    values: Mapping[str, Any]
    linked: Collection[str]
    shared: bool = False


def settings(workflow: Workflow, classes: dict[str, type]) -> list[Setting]:
    """Every widget of every node of a known class, in the file's order, nodes of subgraphs after those around them."""
    classes = with_schemas(classes)
    nodes = _saved_nodes(workflow.data, classes) if workflow.is_ui else _api_nodes(workflow.data, classes)
    return [
        Setting(n.node_id, n.node, n.title, n.saved_title, spec, n.values[name], name in n.linked, n.shared)
        for n in nodes
        for name, spec in n.specs.items()
        if spec.is_widget and name in n.values
    ]


def _api_nodes(prompt: Prompt, classes: NodeClasses) -> Iterator[_Node]:
    for node_id, node in prompt.items():
        inputs = node.get("inputs", {})
        if node.get("class_type") in classes and isinstance(inputs, dict):
            specs = classes.schema(node["class_type"]).inputs
            values = {name: inputs.get(name, spec.default) for name, spec in specs.items()}
            linked = {name for name, value in values.items() if is_link(value)}
            yield _Node(node_id, node, node_title(node, classes), saved_title(node), specs, values, linked)


def _saved_nodes(data: dict, classes: NodeClasses) -> Iterator[_Node]:
    """The nodes of a saved graph. A subgraph that several instances share is listed once, as part of the first."""
    file = File(data, classes)
    try:
        unfolded = Unfolded(file)
    except ValueError:  # conversion says what is wrong with the subgraphs; the rest can be set all the same
        file.subgraphs.clear()
        unfolded = Unfolded(file)
    uses = Counter(id(scope.graph) for scope in unfolded.scopes)
    seen: set[int] = set()
    for scope in unfolded.scopes:
        graph = scope.graph
        if id(graph) in seen:
            continue
        seen.add(id(graph))
        for node_id, node in graph.nodes.items():
            saved, linked = saved_title(node), [s for s in graph.sockets(node_id) if s.link is not None]
            if inner := graph.subgraph(node):
                values = unfolded.promoted(graph, node_id)
                title = saved = saved or inner.name
                specs, fed = _promoted_specs(graph, node_id, values), {socket.name for socket in linked}
            elif node["type"] == PRIMITIVE:
                title = node_title(node, classes)
                specs, values, fed = *_primitive(graph, node_id), ()
            elif node["type"] in classes:
                title, fed = node_title(node, classes), {socket.widget for socket in linked}
                specs, values = classes.schema(node["type"]).inputs, graph.values(node_id)
            else:
                continue
            shared = uses[id(graph)] > 1
            yield _Node(f"{scope.prefix}{node_id}", node, title, saved, specs, values, fed, shared)


def _primitive(graph: Graph, node_id: str) -> tuple[dict[str, InputSpec], dict[str, Any]]:
    """A PrimitiveNode's one widget, `value`, typed like the first input that it feeds."""
    for link, (origin, _) in graph.links.items():
        user = graph.user(link) if origin == node_id else None
        if user and (spec := _declared(graph, user[0], user[1].widget or user[1].name)):
            saved = graph.nodes[node_id].get("widgets_values")
            value = saved[0] if isinstance(saved, list) and saved else spec.default
            return {"value": InputSpec("value", spec.type, True, spec.options, spec.choices)}, {"value": value}
    return {}, {}


def _promoted_specs(graph: Graph, node_id: str, names: Collection[str]) -> dict[str, InputSpec]:
    """What the widgets of a subgraph's instance take: what is declared where each one's value goes."""
    found = {name: _declared(graph, node_id, name) for name in names}
    return {name: replace(spec, name=name) for name, spec in found.items() if spec}


def _declared(graph: Graph, node_id: str, name: str) -> InputSpec | None:
    """The declaration of a node's input; of an instance's input, that of the first widget inside that it stands for."""
    kind, inner = graph.nodes[node_id]["type"], graph.subgraph(graph.nodes[node_id])
    if inner is None:
        return graph.file.classes.schema(kind).inputs.get(name) if kind in graph.file.classes else None
    for slot, entry in enumerate(inner.inputs):
        for link in inner.entering.get(slot, ()) if str(entry.get("name")) == name else ():
            user_id, socket = inner.user(link) or (None, None)
            shown = user_id is not None and (inner.subgraph(inner.nodes[user_id]) or socket.widget)
            if shown and (spec := _declared(inner, user_id, socket.widget or socket.name)):
                return spec
    return None
