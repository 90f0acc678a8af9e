"""Write workflows/checks/core_nodes.py: which nodes ComfyUI itself has, and for what, read from checkouts' sources.

    python tests/tools/core_node_names.py OLDER_CHECKOUT NEWER_CHECKOUT

Nothing of the checkouts is imported, so that nodes whose packages are not installed are found too.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

OUT = Path(__file__).resolve().parents[2] / "workflows" / "checks" / "core_nodes.py"
FILES = ("nodes.py", "comfy_extras/nodes_*.py", "comfy_api_nodes/nodes_*.py")
HEAD = '''"""The names of ComfyUI's own nodes, by what they are for. Written by tests/tools/core_node_names.py."""

VERSIONS = ({old!r}, {new!r})  # whose nodes these are
PAID = "api node"  # the theme of nodes that call a service

'''


def names_in(checkout: Path) -> dict[str, str]:
    """Node class ids with their themes."""
    found = {}
    for pattern in FILES:
        for path in sorted(checkout.glob(pattern)):
            found |= dict(_nodes(ast.parse(path.read_text(encoding="utf-8"))))
    return found


def version_of(checkout: Path) -> str:
    """What the checkout says that it is."""
    return re.search(r'__version__ = "(.+?)"', (checkout / "comfyui_version.py").read_text())[1]


def _nodes(tree: ast.Module) -> Iterator[tuple[str, str]]:
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            targets = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if targets == ["NODE_CLASS_MAPPINGS"]:
                for key, value in zip(node.value.keys, node.value.values, strict=True):
                    yield key.value, _theme(_category(classes.get(getattr(value, "id", "")), classes))
        elif isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef) and node.name == "get_node_list":
            listed = [name.id for part in ast.walk(node) if isinstance(part, ast.List) for name in part.elts]
            for name in listed:
                given = {"category": _category(classes[name], classes)} | _schema(classes[name])
                if "node_id" in given:
                    yield given["node_id"], _theme(given["category"])
    for node in classes.values():  # where the table is made of what the classes say
        given = _schema(node)
        if "NodeId" in given:
            yield given["NodeId"], _theme(_category(node, classes))


def _schema(node: ast.ClassDef) -> dict[str, str]:
    """The texts that a class gives its Schema, in the call or afterwards, or keeps for it as attributes."""
    given = {}
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and getattr(part.func, "attr", "") == "Schema":
            given |= {k.arg: k.value.value for k in part.keywords if isinstance(k.value, ast.Constant) and k.arg}
        elif isinstance(part, ast.Assign) and isinstance(part.value, ast.Constant) and len(part.targets) == 1:
            target = part.targets[0]
            name = getattr(target, "id", None) or getattr(target, "attr", "")
            if name in ("node_id", "NodeId", "category"):
                given[name] = part.value.value
    return given


def _category(node: ast.ClassDef | None, classes: dict[str, ast.ClassDef]) -> str:
    """CATEGORY of a class or of what it is made from."""
    for part in node.body if node else ():
        names = [target.id for target in getattr(part, "targets", ()) if isinstance(target, ast.Name)]
        if names == ["CATEGORY"] and isinstance(part.value, ast.Constant):
            return part.value.value
    above = [classes.get(getattr(base, "id", "")) for base in node.bases] if node else []
    return next((found for base in above if base and (found := _category(base, classes))), "")


def _theme(category: str) -> str:
    first, *rest = category.split("/")
    theme = rest[0] if first == "advanced" and rest else first
    return {"_for_testing": "testing", "": "other", "advanced": "other"}.get(theme, theme)


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("older", type=Path)
    parser.add_argument("newer", type=Path)
    arguments = parser.parse_args()
    old, new = names_in(arguments.older), names_in(arguments.newer)
    themes: dict[str, list[str]] = {}
    for name, theme in (old | new).items():
        themes.setdefault(theme, []).append(name)
    text = HEAD.format(old=version_of(arguments.older), new=version_of(arguments.newer)) + "THEMES = {\n"
    for theme, names in sorted(themes.items()):
        text += f"    {theme!r}: {_lines(names)},\n"
    text += "}\n\n# Those that only one of the versions has.\n"
    text += f"ADDED = {_lines(new.keys() - old.keys())}\nREMOVED = {_lines(old.keys() - new.keys())}\n"
    OUT.write_text(text, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "ruff", "format", "-q", OUT], check=True)


def _lines(names) -> str:
    """Names as one text over several lines, with commas: some hold spaces."""
    words = textwrap.wrap(", ".join(sorted(names)), 100, break_long_words=False, break_on_hyphens=False)
    return "(" + "".join(f"\n        {line + ' '!r}" for line in words) + "\n    )"


if __name__ == "__main__":
    main()
