"""The blueprint, read from the source: which room may import what, and when."""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
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
    "unclip_core/checks.py",
    "unclip_core/config.py",
    "unclip_core/disk.py",
    "unclip_core/presets.py",
    "unclip_core/texts.py",
    *(
        f"unclip_core/checkpoints/{name}.py"
        for name in (
            "catalog",
            "diffusers_clip",
            "diffusers_configs",
            "diffusers_folder",
            "eclipse_folder",
            "header",
            "kandinsky_folder",
            "lora_catalog",
            "lora_keys",
            "pickles",
            "published",
            "stable_unclip_folder",
            "stable_unclip_single",
            "stand_ins",
            "weight_sets",
        )
    ),
)
# Each room may import from the rooms of the lines above its own, and from those on its own line.
ORDER = (
    "unclip_core.checks unclip_core.config unclip_core.types unclip_core.presets unclip_core.texts unclip_core.disk",
    "unclip_core.storybook unclip_core.pictures unclip_core.pages unclip_core.processor",
    "unclip_core.models",
    "unclip_core.clip unclip_core.diffusion unclip_core.runtime unclip_core.embeddings",
    "unclip_core.stages unclip_core.checkpoints",
    "unclip_core.stack",
    "unclip_core.training",
    "unclip_core.evaluation",
    "unclip_core",  # the public face
    "nodes",
    "",  # the door: ComfyUI's mappings
    "workflows.terminal workflows.document",
    "workflows.settings workflows.checks",
    "workflows.engine",
    "workflows.rows",
    "workflows.places",
    "workflows.commands workflows.server",
    "workflows",  # the command's dispatch and the Python face
)
RANKS = {room: rank for rank, line in enumerate(ORDER) for room in (line.split() or [""])}

FILES = [ROOT / "__init__.py", *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))]
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def imports(path):
    """(module, relative level, only when a function runs, names) of imports that are not for type checkers alone."""

    def visit(node, deferred):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, 0, deferred, ()) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                yield child.module or "", child.level, deferred, tuple(alias.name for alias in child.names)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, deferred or inside)

    return list(visit(ast.parse(path.read_text(encoding="utf-8")), False))


def module_name(path):
    """Dotted, from the root package: "nodes.host"; a package goes by its own name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def room(module):
    """The room that a module lies in: the longest name of RANKS that it begins with."""
    parts = module.split(".") if module else []
    names = (".".join(parts[:length]) for length in range(min(len(parts), 2), -1, -1))
    return next(name for name in names if name in RANKS)


def targets(path):
    """The modules of the package that a file imports, at any time."""
    package = path.parent.relative_to(ROOT).parts
    for module, level, _, names in imports(path):
        if level:
            assert level <= len(package) + 1, f"{module} leads out of the package"
            base = ".".join([*package[: len(package) - level + 1], *([module] if module else [])])
            for name in names:
                inner = f"{base}.{name}" if base else name
                yield inner if inner in MODULES else base


def is_light(path):
    name = path.relative_to(ROOT).as_posix()
    return any(name == entry or (entry.endswith("/") and name.startswith(entry)) for entry in LIGHT)


@every_file
def test_arrows_go_one_way(path):
    own = room(module_name(path))
    for target in targets(path):
        assert RANKS[room(target)] <= RANKS[own], f"{own} must not import {target}"
        if own == "nodes":
            assert not target.startswith("workflows")


def test_no_circle_of_files():
    graph = {name: {target for target in targets(path) if target != name} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("a circle: " + " <- ".join(error.args[1]))


def test_no_circle_of_rooms():
    graph = {name: set() for name in RANKS}
    for name, path in MODULES.items():
        graph[room(name)] |= {room(target) for target in targets(path)} - {room(name)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("a circle: " + " <- ".join(error.args[1]))


def test_commands_do_not_import_each_other():
    """What two subcommands share lies in a room below; click's own parts of it in files named _*."""
    for path in sorted((ROOT / "workflows" / "commands").glob("*.py")):
        others = {target for target in targets(path) if target.startswith("workflows.commands.")}
        assert not {name for name in others if not name.rpartition(".")[2].startswith("_")}, path.name


@every_file
def test_imports_inside_the_package_are_relative(path):
    absolute = {module.split(".")[0] for module, level, *_ in imports(path) if not level}
    assert not absolute & {"comfyui_unclip", *ROOMS}


@every_file
def test_the_editor_is_known_to_the_host_alone(path):
    found = [(module, late) for module, level, late, _ in imports(path) if not level and module.split(".")[0] in EDITOR]
    if path == ROOT / "nodes" / "host.py":
        assert found and all(late for _, late in found), "only inside functions"
    else:
        assert not found


@every_file
def test_open_clip_is_known_to_clip_alone_and_diffusers_to_nobody(path):
    tops = {(module.split(".")[0], late) for module, level, late, _ in imports(path) if not level}
    names = {name for name, _ in tops}
    assert not names & {"diffusers", "transformers", "accelerate"}
    if path in (ROOT / "unclip_core" / "clip" / name for name in ("byte_pairs.py", "model.py", "networks.py")):
        assert ("open_clip", True) in tops and ("open_clip", False) not in tops
    else:
        assert "open_clip" not in names


@every_file
def test_light_modules_import_nothing_heavy_at_module_level(path):
    if is_light(path):
        early = {module.split(".")[0] for module, level, late, _ in imports(path) if not level and not late}
        assert not early & HEAVY


@every_file
def test_the_core_knows_no_command_line_and_no_graph(path):
    if module_name(path).startswith("unclip_core"):
        tops = {module.split(".")[0] for module, level, *_ in imports(path) if not level}
        assert not tops & {"argparse", "click", "typer"}
        assert "sys.argv" not in path.read_text(encoding="utf-8")


@every_file
def test_sys_path_is_never_touched(path):
    assert "sys.path" not in path.read_text(encoding="utf-8")


def test_every_package_is_listed_for_the_wheel():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = {".".join(("comfyui_unclip", *path.parent.relative_to(ROOT).parts)) for path in FILES}
    assert set(listed) >= found, found - set(listed)


def test_nothing_hides_the_shipped_graphs_from_the_editor():
    """Of all folders that the editor takes for templates only the first one's files answer."""
    rivals = ("example_workflows", "example", "examples", "workflow")
    assert not [name for name in rivals if (ROOT / name).exists()]
    # The editor runs every script below web/ as an extension.
    assert {path.name for path in (ROOT / "web").rglob("*.js")} == {
        "bars.js",
        "faults.js",
        "filmstrip.js",
        "template_order.js",
        "titles.js",
        "widget.js",
        "wire_colours.js",
    }


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
    assert [found[:3] for found in imports(sample)] == [
        ("__future__", 0, False),
        ("typing", 0, False),
        ("torch.nn", 0, False),
        ("comfy", 0, False),
        ("server", 0, True),
        ("", 2, False),
    ]
    assert room("unclip_core.models.layers") == "unclip_core.models" and room("unclip_core") == "unclip_core"
    assert room("nodes.builtin.scaling") == "nodes" and room("workflows.cli") == "workflows" and room("") == ""
    assert "nodes.host" in set(targets(ROOT / "nodes" / "decoder.py"))
    assert RANKS["unclip_core.stages"] < RANKS["unclip_core.training"] < RANKS["nodes"] < RANKS["workflows.document"]


def test_one_function_prints():
    """What the commands print may hold a stranger's text, so all of it goes through workflows/terminal.py."""
    printers = ("click.echo", "click.secho", "print", "sys.stdout.write", "sys.stderr.write", "logging.basicConfig")
    for path in FILES:
        if path == ROOT / "workflows" / "terminal.py":
            continue
        calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)}
        assert not calls & set(printers), path
