"""The blueprint, read from the source: which room may import what, and when; how large a file and a function may be."""

import ast
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
ROOMS = ("unclip_core", "nodes", "workflows")
EDITOR = {
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "folder_paths",
    "latent_preview",
    "server",
    "execution",
}
HEAVY = {"torch", "numpy", "torchvision", "open_clip", "safetensors", "PIL", "tqdm", "scipy"}
# What ComfyUI's start or `unclip --help` imports.
LIGHT = (
    "__init__.py",
    "nodes/",
    "workflows/",
    "unclip_core/config.py",
    "unclip_core/presets.py",
    *(
        f"unclip_core/checkpoints/{name}.py"
        for name in (
            "catalog",
            "diffusers_clip",
            "diffusers_configs",
            "diffusers_folder",
            "header",
            "pickles",
            "weight_sets",
        )
    ),
)
MAX_LINES, MAX_BYTES, MAX_FUNCTION, MAX_POSITIONAL = 400, 20_000, 60, 8

FILES = [ROOT / "__init__.py", *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))]
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def imports(path):
    """(module, relative level, only when a function runs) of every import that is not for type checkers alone."""

    def visit(node, deferred):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, 0, deferred) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                names = [child.module] if child.module else [alias.name for alias in child.names]
                yield from ((name, child.level, deferred) for name in names)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, deferred or inside)

    return list(visit(ast.parse(path.read_text(encoding="utf-8")), False))


def room(path):
    """The room a module lies in; the root package is "door"."""
    first = path.relative_to(ROOT).parts[0]
    return first if first in ROOMS else "door"


def target_room(path, module, level):
    """The room that a relative import leads to."""
    package = path.parent.relative_to(ROOT).parts
    kept = package[: len(package) - level + 1]
    parts = [*kept, *module.split(".")]
    return parts[0] if parts[0] in ROOMS else "door"


def is_light(path):
    name = path.relative_to(ROOT).as_posix()
    return any(name == entry or (entry.endswith("/") and name.startswith(entry)) for entry in LIGHT)


@every_file
def test_arrows_go_one_way(path):
    allowed = {
        "door": {"nodes"},
        "workflows": {"workflows", "nodes", "unclip_core"},
        "nodes": {"nodes", "unclip_core"},
        "unclip_core": {"unclip_core"},
    }[room(path)]
    for module, level, _ in imports(path):
        if level:
            assert level <= len(path.relative_to(ROOT).parts), f"{module} leads out of the package"
            assert target_room(path, module, level) in allowed, module


@every_file
def test_imports_inside_the_package_are_relative(path):
    absolute = {module.split(".")[0] for module, level, _ in imports(path) if not level}
    assert not absolute & {"comfyui_unclip", *ROOMS}


@every_file
def test_the_editor_is_known_to_the_host_alone(path):
    found = [(module, late) for module, level, late in imports(path) if not level and module.split(".")[0] in EDITOR]
    if path == ROOT / "nodes" / "host.py":
        assert found and all(late for _, late in found), "only inside functions"
    else:
        assert not found


@every_file
def test_open_clip_is_known_to_clip_alone_and_diffusers_to_nobody(path):
    tops = {(module.split(".")[0], late) for module, level, late in imports(path) if not level}
    names = {name for name, _ in tops}
    assert not names & {"diffusers", "transformers", "accelerate"}
    if path == ROOT / "unclip_core" / "clip.py":
        assert ("open_clip", True) in tops and ("open_clip", False) not in tops
    else:
        assert "open_clip" not in names


@every_file
def test_light_modules_import_nothing_heavy_at_module_level(path):
    if is_light(path):
        early = {module.split(".")[0] for module, level, late in imports(path) if not level and not late}
        assert not early & HEAVY


@every_file
def test_the_core_knows_no_command_line_and_no_graph(path):
    if room(path) == "unclip_core":
        tops = {module.split(".")[0] for module, level, _ in imports(path) if not level}
        assert not tops & {"argparse", "click", "typer"}
        assert "sys.argv" not in path.read_text(encoding="utf-8")


@every_file
def test_sys_path_is_never_touched(path):
    assert "sys.path" not in path.read_text(encoding="utf-8")


@every_file
def test_files_and_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES and len(text.encode()) <= MAX_BYTES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < MAX_FUNCTION, node.name
            by_keyword = any("click" in ast.dump(decorator) for decorator in node.decorator_list)  # click names them
            assert by_keyword or len(node.args.posonlyargs) + len(node.args.args) <= MAX_POSITIONAL, node.name


def test_every_package_is_listed_for_the_wheel():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = {".".join(("comfyui_unclip", *path.parent.relative_to(ROOT).parts)) for path in FILES}
    assert set(listed) >= found, found - set(listed)


def test_nothing_hides_the_shipped_graphs_from_the_editor():
    """Of all folders that the editor takes for templates only the first one's files answer."""
    rivals = ("example_workflows", "example", "examples", "workflow")
    assert not [name for name in rivals if (ROOT / name).exists()]
    # The editor runs every script below web/ as an extension.
    assert {path.name for path in (ROOT / "web").rglob("*.js")} == {"bars.js", "faults.js", "filmstrip.js", "widget.js"}


def test_the_checks_can_fail(tmp_path):
    """The reader of imports sees through nesting and tells late from early."""
    sample = tmp_path / "sample.py"
    sample.write_text(
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import numpy\n"
        "try:\n    import torch.nn\nexcept ImportError:\n    pass\n"
        "class A:\n    import comfy\n    def f(self):\n        from server import x\n"
        "from .. import nodes\n"
    )
    assert imports(sample) == [
        ("__future__", 0, False),
        ("typing", 0, False),
        ("torch.nn", 0, False),
        ("comfy", 0, False),
        ("server", 0, True),
        ("nodes", 2, False),
    ]
    assert target_room(ROOT / "unclip_core" / "models" / "x.py", "nodes.host", 3) == "nodes"
    assert target_room(ROOT / "nodes" / "builtin" / "x.py", "host", 2) == "nodes"
    assert target_room(ROOT / "nodes" / "x.py", "unclip_core.config", 2) == "unclip_core"
