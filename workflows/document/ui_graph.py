"""One graph of a saved file as the editor holds it in memory: nodes, links, sockets and widget values.

A file holds the root graph, and one for each subgraph, shared by all its instances. Nothing here follows a link from
one graph into another; `subgraphs.py` does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .schema import InputSpec, types_fit, with_schemas
from .widgets import read_widgets

NOTES = ("Note", "MarkdownNote")
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
VIRTUAL = (*NOTES, REROUTE, PRIMITIVE)
MUTED, BYPASSED = 2, 4
INPUT_NODE, OUTPUT_NODE = "-10", "-20"  # the ends of a subgraph, as its links name them


@dataclass(frozen=True)
class Socket:
    """One input of a node. `link` is a link's id or None; `widget` the name of the widget that it belongs to."""

    name: str
    type: str
    link: str | None
    widget: str | None = None


class File:
    """The graphs of one file by type id, and what the node classes declare."""

    def __init__(self, data: dict, classes: dict[str, type]):
        self.classes = with_schemas(classes)
        definitions = (data.get("definitions") or {}).get("subgraphs") or []
        self.subgraphs = {str(entry["id"]): Graph(entry, self) for entry in definitions}
        self.repeated = len(definitions) - len(self.subgraphs)
        self.root = Graph(data, self)


class Graph:
    """The root graph of a file, or a subgraph's definition. Ids are strings here, as in the API form."""

    def __init__(self, data: dict, file: File):
        self.file = file
        self.id, self.name = str(data.get("id")), str(data.get("name") or data.get("id"))
        self.nodes: dict[str, dict] = {str(node["id"]): node for node in data["nodes"]}
        self.repeated = [node_id for node_id, node in _numbered(data["nodes"]) if self.nodes[node_id] is not node]
        self.inputs = [entry for entry in data.get("inputs") or [] if isinstance(entry, dict)]
        self.links: dict[str, tuple[str, int]] = {}  # id -> (origin node, origin slot)
        self.entering: dict[int, list[str]] = {}  # links by the subgraph's input that they start from
        self.leaving: dict[int, list[str]] = {}  # links by the subgraph's output that they end in
        for link in filter(None, data.get("links") or []):
            self._add_link(link)
        self._sockets: dict[str, list[Socket]] = {}
        self._values: dict[str, dict[str, Any]] = {}
        self._users: dict[str, tuple[str, Socket]] | None = None

    def _add_link(self, link: list | dict) -> None:
        if isinstance(link, dict):
            link = [link.get(key) for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
        link_id, origin, slot, target, target_slot = str(link[0]), str(link[1]), link[2], str(link[3]), link[4]
        self.links[link_id] = (origin, slot)
        if origin == INPUT_NODE:
            self.entering.setdefault(slot, []).append(link_id)
        if target == OUTPUT_NODE and isinstance(target_slot, int):
            self.leaving.setdefault(target_slot, []).append(link_id)

    def subgraph(self, node: dict) -> Graph | None:
        """The definition that a node is an instance of, or None."""
        return self.file.subgraphs.get(node["type"])

    def sockets(self, node_id: str) -> list[Socket]:
        """A node's inputs in the order that the editor gives them, which is not always the file's.

        A known class has its declared sockets, then those of its widgets, then what the file has besides; a subgraph's
        instance has the subgraph's inputs. The saved target slot of a link is not used at all: slots move.
        """
        if node_id not in self._sockets:
            self._sockets[node_id] = self._read_sockets(self.nodes[node_id])
        return self._sockets[node_id]

    def _read_sockets(self, node: dict) -> list[Socket]:
        saved = {entry["name"]: entry for entry in node.get("inputs") or []}
        widgets: Any = ()
        if inner := self.subgraph(node):
            own = [(str(entry.get("name")), str(entry.get("type", "*")), None) for entry in inner.inputs]
        elif node["type"] in self.file.classes:
            specs, widgets = self.file.classes.schema(node["type"]).inputs.values(), self.values(str(node["id"]))
            own = [(spec.name, spec.type, None) for spec in specs if spec.name not in widgets]
            own += [(spec.name, spec.type, spec.name) for spec in specs if spec.name in widgets]
        else:
            return [_socket(entry, None) for entry in node.get("inputs") or []]
        sockets = [Socket(name, _type(kind, saved.get(name)), _link(saved.get(name)), at) for name, kind, at in own]
        taken = {name for name, _, _ in own}
        for entry in (entry for name, entry in saved.items() if name not in taken):
            widget = (entry.get("widget") or {}).get("name")
            # The socket of a widget that the class no longer has is dropped with its link.
            if inner or widget is None or widget in widgets:
                sockets.append(_socket(entry, widget))
        return sockets

    def values(self, node_id: str) -> dict[str, Any]:
        """The widget values of a node as saved; {} for an unknown class."""
        if node_id not in self._values:
            node = self.nodes[node_id]
            known = node["type"] in self.file.classes
            specs: dict[str, InputSpec] = self.file.classes.schema(node["type"]).inputs if known else {}
            saved = node.get("widgets_values")
            self._values[node_id] = read_widgets(specs, node.get("widgets_values_named") if saved is None else saved)
        return self._values[node_id]

    def shown(self, node_id: str) -> dict[str, Any]:
        """The widget values of a node when it runs: a PrimitiveNode writes into the widgets that it is linked to."""
        values = self.values(node_id)
        for socket in self.sockets(node_id):
            if socket.widget in values and (written := self.primitive(socket.link)):
                values = {**values, socket.widget: written[0]}
        return values

    def dynamic(self, class_type: str, name: str) -> bool:
        """Whether a widget's text may hold choices and comments, which the editor resolves."""
        spec = self.file.classes.schema(class_type).inputs.get(name) if class_type in self.file.classes else None
        return spec is not None and bool(spec.options.get("dynamicPrompts"))

    def primitive(self, link: str | None) -> list | None:
        """The widget values, not empty, of the PrimitiveNode that a link comes from."""
        origin = self.nodes.get(self.links.get(link, ("",))[0])
        values = origin.get("widgets_values") if origin and origin["type"] == PRIMITIVE else None
        return values if isinstance(values, list) and values else None

    def user(self, link_id: str) -> tuple[str, Socket] | None:
        """The node and the socket that a link ends in."""
        if self._users is None:
            every = ((node_id, socket) for node_id in self.nodes for socket in self.sockets(node_id))
            self._users = {socket.link: (node_id, socket) for node_id, socket in every if socket.link is not None}
        return self._users.get(link_id)

    def bypass(self, node_id: str, slot: int, wanted: str) -> Socket | None:
        """The input that feeds a consumer of type `wanted` past a bypassed node, or None.

        The editor's rule: the input of the same place if its type fits, else the first of exactly the wanted type,
        else the first that fits.
        """
        inputs = self.sockets(node_id)
        same = inputs[slot] if slot < len(inputs) else None
        if wanted in ("*", ""):
            return same or next(iter(inputs), None)
        given = self._output_type(self.nodes[node_id], slot)
        if same and types_fit(same.type, given) and types_fit(same.type, wanted):
            return same
        exact = (socket for socket in inputs if socket.type == wanted)
        fitting = (s for s in inputs if types_fit(s.type, given) and types_fit(s.type, wanted))
        return next(exact, None) or next(fitting, None)

    def _output_type(self, node: dict, slot: int) -> str:
        types = getattr(self.file.classes.get(node["type"]), "RETURN_TYPES", ())
        if slot < len(types):
            return "COMBO" if isinstance(types[slot], list | tuple) else str(types[slot])
        outputs = node.get("outputs") or []
        return str(outputs[slot].get("type", "*")) if slot < len(outputs) else "*"


def proxied(node: dict) -> list[tuple[str, str]]:
    """A subgraph instance's `proxyWidgets`: (inner node id, widget), "-1" for the instance's own."""
    properties = node.get("properties")
    entries = properties.get("proxyWidgets") if isinstance(properties, dict) else None
    if isinstance(entries, str):
        try:
            entries = json.loads(entries)
        except (ValueError, RecursionError):
            entries = None
    if not isinstance(entries, list):
        return []
    return [(str(e[0]), str(e[1])) if isinstance(e, list) and len(e) == 2 else ("", "") for e in entries]


def search_name(node: dict) -> Any:
    """The name that a node has in `%name.widget%`, apart from its title."""
    properties = node.get("properties")
    return properties.get("Node name for S&R") if isinstance(properties, dict) else None


def _numbered(nodes: list[dict]) -> list[tuple[str, dict]]:
    return [(str(node["id"]), node) for node in nodes]


def _socket(entry: dict, widget: str | None) -> Socket:
    return Socket(entry["name"], _type("*", entry), _link(entry), widget)


def _type(declared: str, entry: dict | None) -> str:
    """An input's type: the declared one; the file's where the declaration leaves it open."""
    open_ = declared == "*" or declared.startswith("COMFY_")
    return str(entry.get("type", "*")) if open_ and entry else declared


def _link(entry: dict | None) -> str | None:
    return None if entry is None or entry.get("link") is None else str(entry["link"])
