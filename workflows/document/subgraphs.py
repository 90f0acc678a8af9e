"""The graphs of a file put together: every instance of a subgraph unfolded, and links followed through all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .reading import MAX_NODES
from .ui_graph import BYPASSED, INPUT_NODE, MUTED, REROUTE, VIRTUAL, File, Graph, proxied

MAX_DEPTH = 64


@dataclass(frozen=True)
class Origin:
    """Where an input's data comes from: an output of a real node, by its id in the API form."""

    node_id: str
    slot: int


@dataclass(frozen=True)
class Constant:
    """The value of a widget on a subgraph's instance."""

    value: Any


@dataclass(frozen=True)
class Nothing:
    """The input gets nothing. `broken`: what is wrong with the file; `muted`: the origin is switched off."""

    muted: bool = False
    broken: str = ""


@dataclass
class Scope:
    """A graph in the place where it is used: the root, or one instance of a subgraph."""

    graph: Graph
    prefix: str = ""  # "6:2:" before the ids in here
    parent: Scope | None = None
    node_id: str = ""  # the instance's, in the parent
    depth: int = 0
    inner: dict[str, Scope] = field(default_factory=dict)

    def enter(self, node_id: str, graph: Graph) -> Scope:
        """The scope of an instance in here. Raises ValueError when it would hold itself or lie too deep."""
        around: Scope | None = self
        while around is not None and around.graph is not graph:
            around = around.parent
        if around is not None:
            raise ValueError(f'subgraph "{graph.name}" holds itself (node {self.prefix}{node_id}); delete that')
        if self.depth == MAX_DEPTH:
            raise ValueError(f"subgraphs lie more than {MAX_DEPTH} deep in each other; unpack some in the editor")
        self.inner[node_id] = Scope(graph, f"{self.prefix}{node_id}:", self, node_id, self.depth + 1)
        return self.inner[node_id]


@dataclass(frozen=True)
class _Step:
    """A link that `resolve` has come to, the scope it lies in, and the type that its input takes."""

    scope: Scope
    link: str
    wanted: str


class Unfolded:
    """All scopes of a file. Raises ValueError for a subgraph that holds itself, and for too many nodes."""

    def __init__(self, file: File):
        self._promoted: dict[tuple[str, str], dict[str, Any]] = {}
        self.scopes = [Scope(file.root)]
        nodes = len(file.root.nodes)
        for scope in self.scopes:  # grows while it is walked
            for node_id, node in scope.graph.nodes.items():
                if inner := scope.graph.subgraph(node):
                    self.scopes.append(scope.enter(node_id, inner))
                    nodes += len(inner.nodes)
                if nodes > MAX_NODES:  # instances in instances multiply: a few kB may mean billions
                    raise ValueError(f"the graph has more than {MAX_NODES:,} nodes; split it")

    def resolve(self, scope: Scope, link: str, wanted: str) -> Origin | Constant | Nothing:
        """Follow a link backwards through reroutes, bypassed nodes and subgraphs, to what feeds an input of type
        `wanted`."""
        found: _Step | Origin | Constant | Nothing = _Step(scope, link, wanted)
        seen = set()
        while isinstance(found, _Step):
            if (found.scope.prefix, found.link) in seen:
                return Nothing(broken="its link runs in a circle of reroutes; link it to a node")
            seen.add((found.scope.prefix, found.link))
            node_id, slot = found.scope.graph.links.get(found.link, ("", 0))
            if node_id == INPUT_NODE and found.scope.parent is not None:
                found = self._out(found, slot)
            elif node_id in found.scope.graph.nodes:
                found = self._through(found, node_id, slot)
            else:
                text = f"its link {found.link} comes from a node that is not in the file; link it again"
                return Nothing(broken=text)
        return found

    def _out(self, step: _Step, slot: int) -> _Step | Constant | Nothing:
        """One step from a subgraph's own input to what feeds its instance."""
        outside, node_id = step.scope.parent, step.scope.node_id
        sockets = outside.graph.sockets(node_id)
        if not 0 <= slot < len(sockets):
            return Nothing(broken=f"its subgraph has no input {slot}; link it again")
        socket = sockets[slot]
        if written := outside.graph.primitive(socket.link):
            return Constant(written[0])
        if socket.link is not None:
            return _Step(outside, socket.link, socket.type)
        promoted = self.promoted(outside.graph, node_id)
        return Constant(promoted[socket.name]) if socket.name in promoted else Nothing()

    def _through(self, step: _Step, node_id: str, slot: int) -> _Step | Origin | Nothing:
        """One step from an output: to its node, or to what feeds a node that does not run (bypassed, a reroute)."""
        scope, node = step.scope, step.scope.graph.nodes[node_id]
        if node.get("mode", 0) == BYPASSED:
            socket = scope.graph.bypass(node_id, slot, step.wanted)
            return Nothing() if socket is None or socket.link is None else _Step(scope, socket.link, socket.type)
        if inside := scope.inner.get(node_id):
            links = inside.graph.leaving.get(slot)
            return _Step(inside, links[0], step.wanted) if links else Nothing()
        if node["type"] == REROUTE:
            socket = next(iter(scope.graph.sockets(node_id)), None)
            return Nothing() if socket is None or socket.link is None else _Step(scope, socket.link, step.wanted)
        if node["type"] in VIRTUAL:
            return Nothing()
        return Nothing(muted=True) if node.get("mode", 0) == MUTED else Origin(f"{scope.prefix}{node_id}", slot)

    def promoted(self, graph: Graph, node_id: str) -> dict[str, Any]:
        """The values of the widgets on a subgraph's instance, by the subgraph's input.

        An input has a widget when one of its links ends in a widget; that widget's value is the first to hold. Saved
        values overwrite it by place, then by `proxyWidgets`, which has the order that the widgets are shown in.
        """
        key = (graph.id, node_id)
        if key not in self._promoted:
            instance = graph.nodes[node_id]
            values = self._inner_values(graph.subgraph(instance))
            saved = instance.get("widgets_values")
            if isinstance(saved, dict):
                values |= {name: saved[name] for name in values if name in saved}
            elif isinstance(saved, list):
                values |= dict(zip(values, saved, strict=False))
                for (inner_id, name), value in zip(proxied(instance), saved, strict=False):
                    if inner_id == "-1" and name in values and value is not None:
                        values[name] = value
            self._promoted[key] = values
        return self._promoted[key]

    def _inner_values(self, graph: Graph) -> dict[str, Any]:
        values = {}
        for slot, entry in enumerate(graph.inputs):
            for link in graph.entering.get(slot, ()):
                if (user := graph.user(link)) is None:
                    continue
                user_id, socket = user
                if graph.subgraph(graph.nodes[user_id]):
                    shown, name = self.promoted(graph, user_id), socket.name
                else:
                    shown, name = graph.shown(user_id), socket.widget
                if name in shown:
                    values[str(entry.get("name"))] = shown[name]
                    break
        return values
