"""Node classes as the editor's page wants them described."""

from __future__ import annotations

import logging
from typing import Any

from ...nodes import NODE_CLASS_MAPPINGS
from ...nodes.builtin import BUILTIN_CLASS_MAPPINGS

PACK = "comfyui-unclip"  # the name under which the page asks for help pages and templates
_LOG = logging.getLogger(__name__)


def describe_all(classes: dict[str, type]) -> dict[str, dict[str, Any]]:
    """Every class by id. One whose INPUT_TYPES fails is left out, with a line in the log."""
    found = {}
    for name, node_class in classes.items():
        try:
            found[name] = describe(name, node_class)
        except Exception as error:  # another pack's own code
            _LOG.warning("node %s is left out: its INPUT_TYPES failed: %s", name, error)
    return found


def describe(name: str, node_class: type) -> dict[str, Any]:
    """One class."""
    inputs = node_class.INPUT_TYPES()
    types = list(node_class.RETURN_TYPES)
    info = {
        "input": inputs,
        "input_order": {kind: list(declared) for kind, declared in inputs.items()},
        "output": types,
        "output_is_list": list(getattr(node_class, "OUTPUT_IS_LIST", [False] * len(types))),
        "output_name": list(getattr(node_class, "RETURN_NAMES", types)),
        "name": name,
        "display_name": getattr(node_class, "TITLE", name),
        "description": getattr(node_class, "DESCRIPTION", "") or _docstring(name, node_class),
        "python_module": _module(name, node_class),
        "category": getattr(node_class, "CATEGORY", "other"),
        "output_node": bool(getattr(node_class, "OUTPUT_NODE", False)),
    }
    if tooltips := getattr(node_class, "OUTPUT_TOOLTIPS", ()):
        info["output_tooltips"] = list(tooltips)
    if words := getattr(node_class, "SEARCH_ALIASES", ()):
        info["search_aliases"] = list(words)
    for mark in ("DEPRECATED", "EXPERIMENTAL"):
        if getattr(node_class, mark, False):
            info[mark.lower()] = True
    return info


def _docstring(name: str, node_class: type) -> str:
    """The editor's own nodes here have no other description."""
    return (node_class.__doc__ or "") if BUILTIN_CLASS_MAPPINGS.get(name) is node_class else ""


def _module(name: str, node_class: type) -> str:
    """Where the page believes the class to come from: the editor's own, ours, or a pack given with --nodes."""
    if BUILTIN_CLASS_MAPPINGS.get(name) is node_class:
        return "nodes"
    if NODE_CLASS_MAPPINGS.get(name) is node_class:
        return f"custom_nodes.{PACK}"
    return "custom_nodes.other"
