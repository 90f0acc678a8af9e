"""The converter against real files: the templates of the pip package `comfyui-workflow-templates`.

That none of them raises is always tested. For about half of them a folder named by UNCLIP_WORKFLOW_CORPUS has the
editor's own export, which theirs must equal; .ci/run sets the variable where that folder is there.
"""

import importlib.metadata
import json
import os
import time
from pathlib import Path

import pytest

from comfyui_unclip.workflows.document.conversion import convert
from comfyui_unclip.workflows.document.schema import node_classes

PACKAGES = [f"comfyui-workflow-templates-media-{part}" for part in ("api", "image", "other", "video")]
# The corpus's README: widgets of the editor's page alone, which are no input of the class.
PAGE_ONLY = {
    "LoadAudio": {"audioUI"},
    "SaveAudioMP3": {"audioUI"},
    "SaveGLB": {"image"},
    "Preview3D": {"image"},
    "PreviewAny": {"preview", "previewMode"},
}
# object_info.json was written with sorted keys. `input_order` keeps the order of a node's inputs, but nothing keeps
# that of the inputs inside a dynamic combo's option, which is this in the class itself.
OPTION_ORDER = {("ResizeImageMaskNode", "resize_type"): ("width", "height", "match", "crop")}


def template_files():
    """Every graph of the installed packages, by name."""
    found = {}
    for package in PACKAGES:
        for entry in importlib.metadata.files(package):
            if entry.suffix == ".json" and "/templates/" in entry.as_posix():
                data = json.loads(Path(entry.locate()).read_text(encoding="utf-8"))
                if isinstance(data, dict) and "nodes" in data:
                    found[entry.stem] = data
    return found


TEMPLATES = template_files()


def test_no_file_raises_and_every_node_of_ours_is_there():
    classes = node_classes()
    assert len(TEMPLATES) == 220
    for name, data in TEMPLATES.items():
        prompt, problems = convert(data, classes)
        assert not problems, (name, problems)
        assert prompt, name


def corpus_folder():
    folder = os.environ.get("UNCLIP_WORKFLOW_CORPUS")
    return Path(folder) if folder else None


if corpus_folder() is not None:  # without the folder there is no such test, rather than one that passes unrun

    def test_files_convert_to_the_editors_own_export():
        index = read("index.json")
        classes = classes_from(read("object_info.json"))
        assert len(index["workflows"]) == 101
        different = []
        for name in index["workflows"]:
            prompt, problems = convert(TEMPLATES[name], classes)
            if problems or comparable(prompt) != comparable(read(f"api/{name}.json")):
                different.append(name)
        assert not different

    def test_no_file_raises_with_its_own_classes_known():
        classes = classes_from(read("object_info.json"))
        for name, data in TEMPLATES.items():
            assert not convert(data, classes)[1], name

    def test_the_largest_file_takes_less_than_50_ms():
        classes = classes_from(read("object_info.json"))
        largest = max(TEMPLATES.values(), key=lambda data: len(json.dumps(data)))
        seconds = []
        for _ in range(5):
            started = time.process_time()
            convert(largest, classes)
            seconds.append(time.process_time() - started)
        assert min(seconds) < 0.05

    @pytest.mark.parametrize("package", [*PACKAGES, "comfyui-workflow-templates"])
    def test_the_packages_are_those_that_the_exports_were_made_from(package):
        assert importlib.metadata.version(package) == read("index.json")["packages"][package]


def read(name):
    return json.loads((corpus_folder() / name).read_text(encoding="utf-8"))


def comparable(prompt):
    return {
        node_id: (
            node.get("class_type"),
            {k: v for k, v in node["inputs"].items() if k not in PAGE_ONLY.get(node.get("class_type"), ())},
        )
        for node_id, node in prompt.items()
    }


def classes_from(info):
    """Node classes, good for conversion alone, that declare what an /object_info says."""
    return {name: _class(name, entry) for name, entry in info.items()}


def _class(name, entry):
    inputs = {
        kind: {key: declared[key] for key in entry["input_order"].get(kind, declared)}
        for kind, declared in entry["input"].items()
        if kind in ("required", "optional")
    }
    for (owner, combo), order in OPTION_ORDER.items():
        if owner == name:
            for option in inputs["required"][combo][1]["options"]:
                for kind, declared in option["inputs"].items():
                    option["inputs"][kind] = dict(sorted(declared.items(), key=lambda item: _place(item[0], order)))
    members = {"INPUT_TYPES": classmethod(lambda cls: inputs), "RETURN_TYPES": tuple(entry["output"])}
    return type(name, (), {**members, "OUTPUT_NODE": entry["output_node"]})


def _place(name, order):
    return order.index(name) if name in order else len(order)
