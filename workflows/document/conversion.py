"""From the editor's saved graph to the API form, as the editor's page does when one presses Run.

Resolved here: widget values by position, converted widgets, muted and bypassed nodes, Reroute, PrimitiveNode, notes,
subgraphs. The reference is the editor's own export (frontend 1.35.9).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from .graph import Problem, Prompt, node_name, node_title, saved_origin
from .reading import Workflow
from .replacements import SAVERS, choose, fill_name
from .subgraphs import Constant, Nothing, Origin, Scope, Unfolded
from .ui_graph import BYPASSED, MUTED, VIRTUAL, File, Graph, search_name

GROUP_NODE = ("workflow>", "workflow/")  # before subgraphs: a node type that the file itself defines


def to_api(workflow: Workflow, classes: dict[str, type]) -> tuple[Prompt, list[Problem]]:
    """The API form of a workflow of either form, and what could not be converted. The workflow may be part of it."""
    return convert(workflow.data, classes) if workflow.is_ui else (workflow.data, [])


def convert(data: dict, classes: dict[str, type]) -> tuple[Prompt, list[Problem]]:
    """The API form of a saved graph, and what could not be converted.

    A node in a subgraph gets the path of instance ids before its own: "6:2". A node of an unknown class is kept, with
    its links alone, for validation to name.
    """
    file = File(data, classes)
    problems = [problem for graph in (file.root, *file.subgraphs.values()) for problem in _repeated(graph)]
    if file.repeated:
        problems.append(Problem("invalid_prompt", "two subgraphs have the same id; export the graph again"))
    try:
        unfolded = Unfolded(file)
    except ValueError as error:
        return {}, [*problems, Problem("invalid_prompt", str(error))]
    prompt: Prompt = {}
    for scope in unfolded.scopes:
        for node_id, node in scope.graph.nodes.items():
            if node["type"] in VIRTUAL or node_id in scope.inner or node.get("mode", 0) in (MUTED, BYPASSED):
                continue
            path = f"{scope.prefix}{node_id}"
            if node["type"].startswith(GROUP_NODE) and node["type"] not in classes:
                message = (
                    "is a group node of an old editor, which no longer runs; convert it to a subgraph and save again"
                )
                problems.append(Problem("invalid_prompt", message, node_name(path, node, classes)))
                continue
            inputs, found = _inputs(unfolded, scope, node_id)
            name = node_name(path, node, classes)
            problems += [Problem("bad_linked_input", text, name, socket) for socket, text in found]
            meta: dict[str, Any] = {"title": node_title(node, classes)}
            if node["type"] not in classes and (origin := saved_origin(node)):
                meta["origin"] = origin
            prompt[path] = {"inputs": inputs, "class_type": node["type"], "_meta": meta}
    return prompt, problems


def _repeated(graph: Graph) -> list[Problem]:
    message = "is there twice: another node has the same id; delete one in the editor and save again"
    return [Problem("invalid_prompt", message, f"node {node_id}") for node_id in dict.fromkeys(graph.repeated)]


def _inputs(unfolded: Unfolded, scope: Scope, node_id: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What a node is given: its widgets, and over them what its links carry; and what is wrong, (input, text)."""
    graph, problems = scope.graph, []
    inputs = {name: _wrapped(value) for name, value in graph.shown(node_id).items()}
    _rewrite(unfolded, graph, graph.nodes[node_id]["type"], inputs)
    for socket in graph.sockets(node_id):
        found = unfolded.resolve(scope, socket.link, socket.type) if socket.link is not None else Nothing()
        if isinstance(found, Origin):
            inputs[socket.name] = [found.node_id, found.slot]
        elif isinstance(found, Constant):
            inputs[socket.name] = _wrapped(found.value)
        elif found.broken:
            problems.append((socket.name, found.broken))
        elif found.muted:
            # The consumer of a muted node loses the input, even where a widget lies beneath the link.
            inputs.pop(socket.name, None)
    return inputs, problems


def _rewrite(unfolded: Unfolded, graph: Graph, class_type: str, inputs: dict[str, Any]) -> None:
    """Bring texts to what the editor's page sends."""
    prefix = inputs.get("filename_prefix")
    if class_type in SAVERS and isinstance(prefix, str) and "%" in prefix:
        inputs["filename_prefix"] = fill_name(
            prefix, lambda name, widget: _shown(unfolded, name, widget), datetime.now()
        )
    for name, value in inputs.items():
        if isinstance(value, str) and graph.dynamic(class_type, name):
            inputs[name] = choose(value)


def _shown(unfolded: Unfolded, name: str, widget: str) -> Any:
    """The value of a widget on the first node of that search name, else of that title. Raises KeyError."""
    every = [(scope.graph, node_id, node) for scope in unfolded.scopes for node_id, node in scope.graph.nodes.items()]
    called = [entry for entry in every if search_name(entry[2]) == name]
    called = called or [entry for entry in every if node_title(entry[2], entry[0].file.classes) == name]
    if not called:
        raise KeyError(name)
    graph, node_id, node = called[0]
    return (unfolded.promoted(graph, node_id) if graph.subgraph(node) else graph.shown(node_id))[widget]


def _wrapped(value: Any) -> Any:
    """A bare list would read as a link, so the editor wraps list values."""
    return {"__value__": value} if isinstance(value, list) else value
