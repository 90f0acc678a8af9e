"""Setting values in a workflow of either form: `apply`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..document.graph import Problem
from ..document.reading import Workflow
from ..document.schema import NodeClasses, with_schemas
from ..document.subgraphs import Unfolded
from ..document.ui_graph import PRIMITIVE, File, proxied
from ..document.widgets import with_widget
from .naming import find, parse
from .reading import Setting, settings


@dataclass(frozen=True)
class Assigned:
    """One value that was set: the name that was given, the setting it meant, and the value at its type."""

    given: str
    name: str
    node_id: str
    value: Any

    def __str__(self) -> str:
        return f"set {self.name} = {self.value!r}  (node {self.node_id})"


def apply(
    workflow: Workflow, values: Iterable[tuple[str, Any]], classes: dict[str, type]
) -> tuple[list[Assigned], list[Problem]]:
    """Set (name, value) pairs in the workflow itself; a later pair wins. Returns what was set, and every problem.

    A value is a text, as on the command line, or already a number or a boolean.
    """
    classes, values = with_schemas(classes), list(values)
    done: list[Assigned] = []
    problems: list[Problem] = []
    available = settings(workflow, classes) if values else []
    for name, value in values:
        try:
            for setting in find(name, available):
                typed = parse(value, setting.spec)
                _write(workflow, setting, typed, classes)
                done.append(Assigned(name, setting.name, setting.node_id, typed))
        except ValueError as error:
            problems.append(Problem("invalid_override", f"-s {name}={_short(value)}: {error}"))
    return done, problems


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _write(workflow: Workflow, setting: Setting, value: Any, classes: NodeClasses) -> None:
    name, node = setting.spec.name, setting.node
    if not workflow.is_ui:
        node.setdefault("inputs", {})[name] = value
    elif node["type"] == PRIMITIVE:
        saved = node.get("widgets_values")
        node["widgets_values"] = [value, *(saved[1:] if isinstance(saved, list) else [])]
    elif node["type"] in classes:
        specs = classes.schema(node["type"]).inputs
        named = node.get("widgets_values_named")  # written by recent editors beside the list
        if isinstance(named, dict):
            named[name] = value
            if node.get("widgets_values") is None:
                return
        node["widgets_values"] = with_widget(specs, node.get("widgets_values"), name, value)
    else:
        _write_promoted(workflow, setting, value, classes)


def _write_promoted(workflow: Workflow, setting: Setting, value: Any, classes: NodeClasses) -> None:
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


def _promoted(workflow: Workflow, node: dict, classes: NodeClasses) -> dict[str, Any]:
    unfolded = Unfolded(File(workflow.data, classes))
    for scope in unfolded.scopes:
        for node_id, candidate in scope.graph.nodes.items():
            if candidate is node:
                return dict(unfolded.promoted(scope.graph, node_id))
    return {}
