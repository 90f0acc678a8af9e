"""Let a real ComfyUI run tests/nodes/core_node_cases.py; what came out is the reference for nodes/builtin/.

    python tests/tools/core_node_references.py COMFYUI_CHECKOUT [-o FOLDER]
        -> tests/data/core_nodes.json, tests/data/core_nodes.safetensors

Run it with a Python that has the checkout's requirements. No server runs: its validation and its executor are called.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import logging
import sys
import tempfile
from pathlib import Path

from executor_references import Server, load, new_executor

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("latent", "images", "mask", "post_processing", "primitive", "string", "preview_any", "logic", "compositing")


def declared(name: str, node: type, titles: dict[str, str]) -> dict:
    """What a class says of itself."""
    inputs = node.INPUT_TYPES()
    return {
        "title": titles.get(name, name),
        "category": node.CATEGORY,
        "required": [[key, *entry] for key, entry in inputs.get("required", {}).items()],
        "optional": [[key, *entry] for key, entry in inputs.get("optional", {}).items()],
        "outputs": list(node.RETURN_TYPES),
        "names": list(getattr(node, "RETURN_NAMES", None) or node.RETURN_TYPES),
        "output_node": bool(getattr(node, "OUTPUT_NODE", False)),
    }


def main() -> None:
    """Run every case in an executor of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "tests" / "data")
    arguments = parser.parse_args()
    sys.argv = sys.argv[:1]
    sys.path.insert(0, str(arguments.comfyui))
    importlib.import_module(
        "utils.extra_config"
    )  # first, as its main.py does: `nodes` puts another `utils` on the path
    from comfy.cli_args import args

    args.cpu = True
    import comfyui_version
    import execution
    import folder_paths
    import server
    import torch
    from safetensors.torch import save_file

    import nodes

    cases = load("core_node_cases", ROOT / "tests" / "nodes" / "core_node_cases.py")
    wanted = {class_type for class_type, _ in cases.CASES.values()}
    wanted |= {"LoadImage", "LoadImageMask", "SaveImage", "PreviewImage"}
    for extra in EXTRAS:
        file = arguments.comfyui / "comfy_extras" / f"nodes_{extra}.py"
        if file.is_file():
            asyncio.run(nodes.load_custom_node(str(file), module_parent="comfy_extras"))
    known = nodes.NODE_CLASS_MAPPINGS
    known.update(cases.HELPERS)
    logging.disable()
    values, tensors, lacking = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        folder_paths.set_output_directory(folder)
        folder_paths.set_input_directory(folder)
        folder_paths.set_temp_directory(folder)
        for case, (class_type, _) in cases.CASES.items():
            if class_type not in known:
                continue
            heard = server.PromptServer.instance = Server()
            prompt = cases.prompt_of(case) | cases.keepers(len(known[class_type].RETURN_TYPES))
            valid, _, good, faults = asyncio.run(execution.validate_prompt("reference", prompt, None))
            if not valid:
                lacking[case] = [fault["type"] for entry in faults.values() for fault in entry["errors"]]
                continue
            found = cases.UnclipCoreKept.found
            found.clear()
            executor = new_executor(execution, heard)
            executor.execute(prompt, "reference", {"client_id": "reference"}, good)
            failed = [data for event, data in heard.heard if event == "execution_error"]
            if failed:
                lacking[case] = failed[0]["exception_type"]
                continue
            started = {data["node"] for event, data in heard.heard if event == "executing"} - {None}
            shown = [data["output"] for event, data in heard.heard if event == "executed" and data["node"] == "node"]
            tensors |= {f"{case}/{slot}": value.contiguous() for slot, value in found.items() if torch.is_tensor(value)}
            files = cases.files_of(shown[0] if shown else None, lambda kind, folder=folder: folder)
            tensors |= {f"{case}/file{n}": torch.from_numpy(frames) for n, (frames, _) in enumerate(files)}
            values[case] = {
                "executed": sorted(started),
                "ui": shown[0] if shown else None,
                "files": [told for _, told in files],
                "outputs": [None if torch.is_tensor(value) else value for _, value in sorted(found.items())],
            }
        references = {
            "comfyui": comfyui_version.__version__,
            "declared": {
                name: declared(name, known[name], nodes.NODE_DISPLAY_NAME_MAPPINGS)
                for name in sorted(wanted & known.keys())
            },
            "cases": values,
            "failed": lacking,
        }
    text = json.dumps(references, indent=1, ensure_ascii=False, default=str) + "\n"
    (arguments.out / "core_nodes.json").write_text(text, encoding="utf-8")
    save_file(tensors, arguments.out / "core_nodes.safetensors")


if __name__ == "__main__":
    main()
