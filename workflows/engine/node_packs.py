"""Other people's V1 node packs, loaded from disk as the editor loads them. This runs their code: only on `--nodes`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from ..document.graph import Problem, WorkflowError
from ..document.schema import node_classes

_NEEDED = ("INPUT_TYPES", "RETURN_TYPES", "FUNCTION")
_EDITOR = {
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "latent_preview",
    "nodes",
}
_EDITOR |= {"node_helpers", "server"}


def known_classes(paths: Iterable[str | Path] = ()) -> dict[str, type]:
    """Every node class a headless run knows, and those of the packs. Raises WorkflowError."""
    return with_packs(node_classes(), paths)


def with_packs(classes: dict[str, type], paths: Iterable[str | Path]) -> dict[str, type]:
    """`classes` and the node classes of every pack. A class id that is taken keeps its first class, as in the editor.
    Raises WorkflowError with every pack that does not load."""
    found, problems = dict(classes), []
    for path in paths:
        try:
            found = {**load_pack(path), **found}
        except WorkflowError as error:
            problems += error.problems
    if problems:
        raise WorkflowError(problems)
    return found


def load_pack(path: str | Path) -> dict[str, type]:
    """The node classes of a folder with __init__.py, or of one Python file. A pack is loaded once in a process.

    As in the editor, its module is named after its absolute path, so relative imports work and nothing is put on the
    search path; a prestartup_script.py is not run. Raises WorkflowError.
    """
    path = Path(path).absolute()
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        lacks = "has no __init__.py; give the folder of one pack" if path.is_dir() else "does not exist; check the path"
        raise _error(path, lacks)
    if file.suffix != ".py":
        raise _error(path, "is not Python; give a pack's folder or its .py file")
    module = _load(path, file)
    mappings = getattr(module, "NODE_CLASS_MAPPINGS", None)
    if not isinstance(mappings, dict):
        v3 = hasattr(module, "comfy_entrypoint")
        lacks = "has only V3 nodes (comfy_entrypoint); they need the editor" if v3 else "has no NODE_CLASS_MAPPINGS"
        raise _error(path, f"{lacks}; a headless run takes V1 nodes")
    titles = getattr(module, "NODE_DISPLAY_NAME_MAPPINGS", None) or {}
    for name, node_class in mappings.items():
        missing = [attribute for attribute in _NEEDED if not hasattr(node_class, attribute)]
        if missing:
            raise _error(path, f"its node {name} has no {', '.join(missing)}; a headless run takes V1 nodes")
        if name in titles and not hasattr(node_class, "TITLE"):
            node_class.TITLE = titles[name]
    return dict(mappings)


def _load(path: Path, file: Path) -> ModuleType:
    name = str(path if path.is_dir() else path.with_suffix("")).replace(".", "_x_")
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a pack's own code raises
        for loaded in [loaded for loaded in sys.modules if loaded == name or loaded.startswith(f"{name}.")]:
            del sys.modules[loaded]
        raise _error(path, _reason(error)) from error
    return module


def _reason(error: BaseException) -> str:
    missing = (getattr(error, "name", None) or "").split(".")[0]
    if isinstance(error, ModuleNotFoundError) and missing in _EDITOR:
        return f"imports the editor's module {missing!r}, which a headless run does not have; run it with --server"
    if isinstance(error, ModuleNotFoundError) and missing:
        return f"needs the Python package {missing!r}; install what the pack requires"
    text = " ".join(str(error).split())
    return f"failed to load: {type(error).__name__}{': ' if text else ''}{text}"


def _error(path: Path, message: str) -> WorkflowError:
    return WorkflowError([Problem("invalid_nodes", f"--nodes {path}: {message}")])
