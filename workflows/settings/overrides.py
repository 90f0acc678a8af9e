"""Values from the command line, `-s NAME=VALUE`, set in a workflow of either form.

NAME is `title.input` or `id.input`. A bare NAME is first a node's title (sets its first widget), then a node's id
(likewise), then an input name, set on every node that has it as an unlinked widget.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..document.conversion import PRIMITIVE, widget_value
from ..document.graph import Problem, Workflow, is_link, node_title, saved_title
from ..document.schema import InputSpec, input_specs, widget_places

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Assigned:
    """One value that was set: the name that was given, the setting it meant, and the value at its type."""

    given: str
    name: str
    node_id: str
    value: Any

    def __str__(self) -> str:
        return f"set {self.name} = {self.value!r}  (node {self.node_id})"


@dataclass(frozen=True)
class Setting:
    """One widget of one node that a user may set."""

    node_id: str
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


def settings(workflow: Workflow, classes: dict[str, type]) -> list[Setting]:
    """Every widget of every node of a known class, in the file's order."""
    nodes = workflow.data["nodes"] if workflow.is_ui else workflow.data.items()
    found: list[Setting] = []
    for entry in nodes:
        node_id, node = (str(entry["id"]), entry) if workflow.is_ui else entry
        class_type = node.get("type") if workflow.is_ui else node.get("class_type")
        if class_type == PRIMITIVE and workflow.is_ui:
            found += _primitive(workflow, node, classes)
        elif class_type in classes and (workflow.is_ui or isinstance(node.get("inputs", {}), dict)):
            read = _read_ui if workflow.is_ui else _read_api
            for spec in input_specs(classes[class_type]).values():
                if spec.is_widget:
                    value, linked = read(node, spec, classes)
                    found.append(
                        Setting(node_id, node, node_title(node, classes), saved_title(node), spec, value, linked)
                    )
    if workflow.is_ui and has_subgraphs(workflow):
        from .subgraph_settings import subgraph_settings

        found += subgraph_settings(workflow, classes)
    return found


def has_subgraphs(workflow: Workflow) -> bool:
    """Whether a saved graph defines subgraphs."""
    return bool((workflow.data.get("definitions") or {}).get("subgraphs"))


def _read_ui(node: dict, spec: InputSpec, classes: dict[str, type]) -> tuple[Any, bool]:
    sockets = [entry for entry in node.get("inputs") or [] if entry.get("link") is not None]
    linked = any(((entry.get("widget") or {}).get("name") or entry["name"]) == spec.name for entry in sockets)
    return widget_value(node, spec.name, classes), linked


def _read_api(node: dict, spec: InputSpec, classes: dict[str, type]) -> tuple[Any, bool]:
    inputs = node.get("inputs")
    value = inputs.get(spec.name, spec.default) if isinstance(inputs, dict) else spec.default
    return value, is_link(value)


def _primitive(workflow: Workflow, node: dict, classes: dict[str, type]) -> list[Setting]:
    """A PrimitiveNode's one widget, typed like the first input that it feeds."""
    links = {link for output in node.get("outputs") or [] for link in output.get("links") or []}
    for consumer in workflow.data["nodes"]:
        specs = input_specs(classes[consumer["type"]]) if consumer["type"] in classes else {}
        for entry in consumer.get("inputs") or []:
            spec = specs.get((entry.get("widget") or {}).get("name") or entry["name"])
            if entry.get("link") in links and spec is not None:
                value = (node.get("widgets_values") or [spec.default])[0]
                own = InputSpec("value", spec.type, True, spec.options, spec.choices)
                return [Setting(str(node["id"]), node, node_title(node, classes), saved_title(node), own, value, False)]
    return []


def apply(
    workflow: Workflow, values: Iterable[tuple[str, Any]], classes: dict[str, type], option: str = "-s "
) -> tuple[list[Assigned], list[Problem]]:
    """Set (name, value) pairs in the workflow itself; a later pair wins. Returns what was set, and every problem.

    A value is a text, as on the command line, or already a number or a boolean. `option` begins the messages.
    """
    done: list[Assigned] = []
    problems: list[Problem] = []
    for name, value in values:
        try:
            for setting in find(name, settings(workflow, classes)):
                brought = parse(value, setting.spec)
                _write(workflow, setting, brought, classes)
                done.append(Assigned(name, setting.name, setting.node_id, brought))
        except ValueError as error:
            problems.append(Problem("invalid_override", f"{option}{name}={_short(value)}: {error}"))
    return done, problems


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def find(name: str, available: list[Setting]) -> list[Setting]:
    """The settings that NAME means. Raises ValueError when nothing, or more than one node, answers to it."""
    name = name.strip()
    for group in (_titled(available, name), [s for s in available if s.node_id == name]):
        if group:
            return [_unlinked(_one_node(group, name)[0])]
    if everywhere := [s for s in available if s.spec.name == name]:
        if free := [s for s in everywhere if not s.linked]:
            return free
        raise ValueError(f"{name} is linked on every node that has it; set the node that feeds it")
    owner, _, field = name.rpartition(".")
    if group := _titled(available, owner) or [s for s in available if s.node_id == owner]:
        group = _one_node(group, owner)
        if chosen := [s for s in group if s.spec.name == field]:
            return [_unlinked(chosen[0])]
        raise ValueError(
            f"node {group[0].node_id} has no input {field!r}; it has {', '.join(s.spec.name for s in group)}"
        )
    raise ValueError(_unknown(name, available))


def _titled(available: list[Setting], title: str) -> list[Setting]:
    saved = [s for s in available if s.saved_title == title]
    return saved or [s for s in available if s.title == title]


def _one_node(group: list[Setting], name: str) -> list[Setting]:
    ids = list(dict.fromkeys(s.node_id for s in group))
    if len(ids) > 1:
        raise ValueError(f"{len(ids)} nodes are titled {name!r}; use an id: {', '.join(ids)}")
    return group


def _unlinked(setting: Setting) -> Setting:
    if setting.linked:
        raise ValueError(f"{setting.name} is linked; set the node that feeds it")
    if setting.shared:
        raise ValueError(f"{setting.name} is in a subgraph that is used several times; unpack one in the editor")
    return setting


def _unknown(name: str, available: list[Setting]) -> str:
    if not available:
        return f"nothing in this graph is called {name!r}; it has no widgets to set"
    names = list(dict.fromkeys([s.saved_title for s in available if s.saved_title] + [s.spec.name for s in available]))
    dotted = list(dict.fromkeys(s.name for s in available))
    close = difflib.get_close_matches(name, names + dotted, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"nothing in this graph is called {name!r}; {hint}it has {', '.join(dotted)}"


def parse(given: Any, spec: InputSpec) -> Any:
    """A command line's text, or a table's value, as the input's type. Raises ValueError naming value and fix."""
    if spec.choices is not None:
        # What is not in the list is left to preflight: some nodes take more than they list (`picture.png [output]`).
        return {str(choice): choice for choice in spec.choices}.get(str(given), given)
    kind = "a whole number" if spec.type == "INT" else "a number"
    wrong = ValueError(f"{given!r} is not {kind}; {spec.name} takes {spec.range_text()}")
    if spec.type in ("INT", "FLOAT"):
        if isinstance(given, bool) or not isinstance(given, str | int | float):
            raise wrong
        try:
            value = int(given) if spec.type == "INT" else float(given)
        except (ValueError, OverflowError):
            raise wrong from None
        if isinstance(given, float) and value != given:  # 2.5 in a table is a slip, not a 2
            raise wrong
        return value
    if spec.type == "BOOLEAN":
        text = str(given).lower()
        if text not in _TRUE + _FALSE:
            raise ValueError(f"{given!r} is neither true nor false")
        return text in _TRUE
    return given if isinstance(given, str) else str(given)


def _write(workflow: Workflow, setting: Setting, value: Any, classes: dict[str, type]) -> None:
    name, node = setting.spec.name, setting.node
    if not workflow.is_ui:
        node.setdefault("inputs", {})[name] = value
        return
    if node["type"] != PRIMITIVE and node["type"] not in classes:
        from .subgraph_settings import write_promoted

        write_promoted(workflow, setting, value, classes)
        return
    named = node.get("widgets_values_named")  # written by recent editors beside the list
    if isinstance(named, dict):
        named[name] = value
    values = node.get("widgets_values")
    if isinstance(values, dict):
        values[name] = value
        return
    place = 0 if node["type"] == PRIMITIVE else widget_places(classes[node["type"]])[name]
    values = list(values or [])
    if len(values) <= place:
        values += _fresh_widgets(node, classes)[len(values) :]
    values[place] = value
    node["widgets_values"] = values


def _fresh_widgets(node: dict, classes: dict[str, type]) -> list[Any]:
    """What the editor saves for a node nobody touched, so that a short list can be filled up to a place."""
    if node["type"] == PRIMITIVE:
        return [None]
    values: list[Any] = []
    for spec in input_specs(classes[node["type"]]).values():
        if spec.is_widget:
            values += [spec.default, *["fixed", ""][: spec.extra_widgets]]
    return values
