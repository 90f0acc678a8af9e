"""What `-s NAME=VALUE` means: the settings that a NAME stands for, and the VALUE at its input's type.

NAME is `title.input` or `id.input`. A bare NAME is first a node's title, then a node's id (either means its first
widget), then an input name, which stands for every node that has it as an unlinked widget.
"""

from __future__ import annotations

import difflib
from typing import Any

from ..document.schema import InputSpec
from .reading import Setting

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


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
        # What is not in the list is left to validation: some nodes take more than they list (`picture.png [output]`).
        return {str(choice): choice for choice in spec.choices}.get(str(given), given)
    if spec.type in ("INT", "FLOAT"):
        return _parse_number(given, spec)
    if spec.type == "BOOLEAN":
        text = str(given).lower()
        if text not in _TRUE + _FALSE:
            raise ValueError(f"{given!r} is neither true nor false; give {spec.name} one of them")
        return text in _TRUE
    return given if isinstance(given, str) else str(given)


def _parse_number(given: Any, spec: InputSpec) -> int | float:
    convert, kind = (int, "a whole number") if spec.type == "INT" else (float, "a number")
    wrong = ValueError(f"{given!r} is not {kind}; {spec.name} takes {spec.range_text()}")
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise wrong
    try:
        value = convert(given)
    except (ValueError, OverflowError):
        raise wrong from None
    if isinstance(given, float) and value != given:  # 2.5 in a table is a slip, not a 2
        raise wrong
    return value
