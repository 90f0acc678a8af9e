"""The pack as ComfyUI loads it: by path, under any folder name, beside modules that have our rooms' names.

`folder_paths` here is a stand-in with the names of ComfyUI's that the pack uses.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What ComfyUI does: the module's name is the folder's path, and the first entry of sys.path holds a `nodes` of its own.
LOADER = """
import importlib.util, json, sys, time
folder, decoys = sys.argv[1:]
sys.path.insert(0, decoys)
import comfy, folder_paths, nodes
before = set(sys.modules)
path_before = list(sys.path)
name = folder.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, folder + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
started = time.process_time()
spec.loader.exec_module(module)
seconds = time.process_time() - started  # of the processor: a busy machine is not our fault
folders = {name: (list(paths), sorted(kinds)) for name, (paths, kinds) in folder_paths.folder_names_and_paths.items()}
print(json.dumps({
    "seconds": seconds,
    "loaded": sorted({m.split(".")[0] for m in set(sys.modules) - before if not m.startswith("/")}),
    "mappings": sorted(module.NODE_CLASS_MAPPINGS),
    "titles": sorted(module.NODE_DISPLAY_NAME_MAPPINGS),
    "inputs": {k: list(c.INPUT_TYPES()["required"]) for k, c in module.NODE_CLASS_MAPPINGS.items()},
    "heavy": sorted(m for m in ("torch", "numpy", "open_clip", "torchvision", "PIL") if m in sys.modules),
    "path": sys.path == path_before,
    "web": module.WEB_DIRECTORY,
    "folders": folders,
}))
"""

FOLDER_PATHS = """
models_dir = "/comfy/models"
folder_names_and_paths = {"unclip": (["/from/yaml"], set()), "loras": (["/comfy/models/loras"], {".safetensors"})}
def add_model_folder_path(name, path):
    folder_names_and_paths.setdefault(name, ([], set()))[0].append(path)
def get_folder_paths(name):
    return folder_names_and_paths[name][0][:]
def get_input_directory():
    return "/comfy/input"
get_output_directory = get_input_directory
"""


@pytest.fixture(scope="module", params=["ComfyUI-unCLIP", "my.pack (copy) 2", "nodes"])
def loaded(request, tmp_path_factory):
    base = tmp_path_factory.mktemp("comfy")
    decoys = base / "ComfyUI"
    decoys.mkdir()
    (decoys / "nodes.py").write_text("NODE_CLASS_MAPPINGS = {'KSampler': object}\n")
    (decoys / "comfy").mkdir()
    (decoys / "comfy" / "__init__.py").touch()
    (decoys / "folder_paths.py").write_text(FOLDER_PATHS)
    for name in ("utils", "workflows", "unclip_core", "host", "config", "comfyui_unclip"):
        (decoys / f"{name}.py").write_text("raise RuntimeError('a decoy was imported')\n")
    pack = base / "custom_nodes" / request.param
    pack.parent.mkdir()
    pack.symlink_to(ROOT, target_is_directory=True)
    command = [sys.executable, "-c", LOADER, str(pack), str(decoys)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=decoys)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_all_nodes_are_there(loaded):
    assert "UnCLIPLoader" in loaded["mappings"] and loaded["mappings"] == loaded["titles"]
    assert all(name.startswith("UnCLIP") for name in loaded["mappings"])
    assert loaded["inputs"]["UnCLIPDecoderSample"][0] == "decoder"


def test_nothing_heavy_is_imported(loaded):
    """Not even when the editor asks for the nodes' inputs."""
    assert loaded["heavy"] == []
    assert not set(loaded["loaded"]) & {"click", "comfyui_unclip", "utils", "unclip_core", "workflows"}


def test_it_is_quick_and_leaves_sys_path_alone(loaded):
    assert loaded["seconds"] < 0.5
    assert loaded["path"] and (ROOT / loaded["web"] / "docs").is_dir()


def test_the_model_folder_is_known_from_the_start_beside_the_users_own(loaded):
    """The editor caches a listing with the extensions it had when first asked."""
    assert loaded["folders"] == {
        "unclip": [["/from/yaml", "/comfy/models/unclip"], [".safetensors"]],
        "loras": [["/comfy/models/loras"], [".safetensors"]],
    }
