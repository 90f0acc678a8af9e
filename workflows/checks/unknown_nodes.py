"""Where a node comes from that is not known here, and what to do about it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from typing import Any

from ..document.graph import saved_origin, saved_title
from . import core_nodes

ELSEWHERE = "ComfyUI or another node pack may have it"
_CLOSE = 0.75  # of 1: a slip of the fingers, while ImageBlend and ImageScale are two nodes
_CORE = "comfy-core"  # the pack's name that the editor saves for its own nodes
_SERVER = "run the graph on ComfyUI (unclip run --server URL)"


def why_unknown(node: dict[str, Any], classes: dict[str, type]) -> str:
    """What is said of an API node whose class is not among `classes`, with the fix: whether ComfyUI itself or a named
    pack has it, as far as the node's name and what the file says tell."""
    remote = _are_declarations(classes)
    class_type, origin = node.get("class_type"), saved_origin(node)
    if not isinstance(class_type, str):
        return f"{saved_title(node)!r} is not a node that is known here; {ELSEWHERE}: {_fix(remote)}"
    said = f"unknown node class {class_type!r}"
    if class_type.startswith("UnCLIP"):  # ours, of whatever name the pack was installed under
        if hint := _similar(class_type, classes):
            return f"{said}; {hint}"
        version = f" (the graph was saved with {origin['version']})" if "version" in origin else ""
        return f"{said}; a newer version of this pack may have it{version}: update it"
    if (theme := _theme(class_type)) or origin.get("pack") == _CORE:
        return f"{said}, {_core(class_type, theme, origin, remote)}"
    if pack := origin.get("pack"):
        named = f"{pack} {origin.get('version', '')}".strip()
        local = (
            "add its folder with --nodes, or install it in ComfyUI and run the graph there (unclip run --server URL)"
        )
        fix = "install that in the server's ComfyUI" if remote else local
        return f"{said}, from the node pack {named}; {fix}"
    return "; ".join(filter(None, (said, f"{ELSEWHERE}: {_fix(remote)}", _similar(class_type, classes))))


def _core(class_type: str, theme: str | None, origin: dict[str, str], remote: bool) -> str:
    """Of a node of ComfyUI's own: which versions have it."""
    old, new = core_nodes.VERSIONS
    kind = f" ({theme})" if theme not in (None, "other") else ""
    if theme == core_nodes.PAID:
        kind = ", which asks a paid service"
    if theme is None:
        versions = f", of version {origin['version']}" if "version" in origin else ""
    elif class_type in _names(core_nodes.ADDED):
        versions = f", in versions after {old}"
    else:
        versions = f", until before {new}" if class_type in _names(core_nodes.REMOVED) else ""
    if not remote:
        fix = f"{_SERVER}, or take the node out"
    elif class_type in _names(core_nodes.REMOVED):
        fix = "replace it: the server's ComfyUI no longer has it"
    else:
        fix = "update the server's ComfyUI, or look into its log for why the node is missing"
    return f"a node of ComfyUI's own{kind}{versions}; {fix}"


def _fix(remote: bool) -> str:
    return "install its pack in the server's ComfyUI" if remote else f"add a pack with --nodes, or {_SERVER}"


def _theme(class_type: str) -> str | None:
    """What ComfyUI has a node for, or None for a name that is none of its own."""
    return next((theme for theme, names in core_nodes.THEMES.items() if class_type in _names(names)), None)


def _names(text: str) -> list[str]:
    return re.split(", *", text.strip())


def _similar(class_type: str, classes: Collection[str]) -> str:
    close = difflib.get_close_matches(class_type, classes, 1, _CLOSE)
    return f"did you mean {close[0]}?" if close else ""


def _are_declarations(classes: dict[str, type]) -> bool:
    """Whether the classes are a server's, which say what nodes take and do nothing."""
    return bool(classes) and not any(hasattr(node_class, "FUNCTION") for node_class in classes.values())
