"""Whether a parsed document has the parts of a workflow, so that the code behind it needs no doubt about types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAX_NODES = 100_000  # in all; the largest graphs that people share have some hundreds


def is_saved_graph(data: Any) -> bool:
    """True for the editor's saved form, however broken inside."""
    return isinstance(data, dict) and isinstance(data.get("nodes"), list)


def malformed(data: dict) -> Iterator[Any]:
    """The parts of a saved graph that are not what the editor writes."""
    definitions = data.get("definitions") or {}
    subgraphs = (definitions.get("subgraphs") or []) if isinstance(definitions, dict) else None
    if not isinstance(subgraphs, list):
        yield definitions
        return
    yield from (graph for graph in subgraphs if not _is_subgraph(graph))
    for graph in (data, *filter(_is_subgraph, subgraphs)):
        links = graph.get("links") or []
        yield from (part for part in graph["nodes"] if not _is_node(part))
        yield from (part for part in links if not _is_link(part)) if isinstance(links, list) else [links]


def is_api_prompt(data: Any) -> bool:
    """True for the API form."""
    return isinstance(data, dict) and bool(data) and all(map(_is_api_node, data.values()))


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_subgraph(graph: Any) -> bool:
    if not (isinstance(graph, dict) and _is_id(graph.get("id")) and isinstance(graph.get("nodes"), list)):
        return False
    inputs = graph.get("inputs") or []
    return isinstance(inputs, list) and all(isinstance(entry, dict) for entry in inputs)


def _is_node(node: Any) -> bool:
    if not (isinstance(node, dict) and _is_id(node.get("id")) and isinstance(node.get("type"), str)):
        return False
    inputs, outputs = node.get("inputs") or [], node.get("outputs") or []
    if not (isinstance(inputs, list) and isinstance(outputs, list)):
        return False
    titled = isinstance(node.get("title") or "", str) and isinstance(node.get("widgets_values") or [], list | dict)
    return titled and all(map(_is_socket, inputs)) and all(map(_is_socket, outputs))


def _is_socket(entry: Any) -> bool:
    if not (isinstance(entry, dict) and isinstance(entry.get("name"), str) and "type" in entry):
        return False
    widget, links = entry.get("widget") or {}, entry.get("links") or []
    named = isinstance(widget, dict) and isinstance(widget.get("name", ""), str)
    ids = [entry.get("link"), *links] if isinstance(links, list) else [links]
    return named and all(link is None or _is_id(link) for link in ids)


def _is_link(link: Any) -> bool:
    if isinstance(link, dict):
        fields = [link.get("id"), link.get("origin_id"), link.get("origin_slot")]
    elif isinstance(link, list) and len(link) >= 5:
        fields = link[:3]
    else:
        return link is None
    return all(map(_is_id, fields)) and isinstance(fields[2], int) and fields[2] >= 0


def _is_api_node(node: Any) -> bool:
    if not (isinstance(node, dict) and isinstance(node.get("class_type", ""), str)):
        return False
    meta = node.get("_meta") or {}
    return not isinstance(meta, dict) or isinstance(meta.get("title") or "", str)
