"""What is said of a node that is not here."""

import json

import pytest

from comfyui_unclip.nodes.builtin import BUILTIN_CLASS_MAPPINGS
from comfyui_unclip.workflows.checks import core_nodes
from comfyui_unclip.workflows.checks.unknown_nodes import why_unknown
from comfyui_unclip.workflows.checks.validation import to_checked_prompt
from comfyui_unclip.workflows.cli import run
from comfyui_unclip.workflows.document.reading import load_workflow
from comfyui_unclip.workflows.document.schema import node_classes


def said_of(class_type, properties, save):
    """The problem with a saved graph of one node."""
    data = {"nodes": [{"id": 1, "type": class_type, "properties": properties}], "links": [], "version": 0.4}
    _, problems = to_checked_prompt(load_workflow(save(data)), node_classes())
    return problems[0].message


@pytest.mark.parametrize(
    ("class_type", "properties", "told"),
    [
        ("KSampler", {}, "a node of ComfyUI's own (sampling); run the graph on ComfyUI (unclip run --server URL)"),
        ("ResizeImageMaskNode", {}, "of ComfyUI's own (transform), in versions after 0.3.64; run"),
        (
            "SaveLoRANode",
            {"cnr_id": "comfy-core", "ver": "0.3.60"},
            "of ComfyUI's own (loaders), until before 0.8.0; run",
        ),
        ("Epsilon Scaling", {}, "a node of ComfyUI's own"),
        ("OpenAIDalle3", {}, "a node of ComfyUI's own, which asks a paid service; run"),
        ("Future", {"cnr_id": "comfy-core", "ver": "0.12.1"}, "a node of ComfyUI's own, of version 0.12.1; run"),
        (
            "ImageResizeKJv2",
            {"cnr_id": "comfyui-kjnodes", "aux_id": "kijai/ComfyUI-KJNodes", "ver": "1.0.6"},
            "from the node pack comfyui-kjnodes 1.0.6; add its folder with --nodes, or install it in ComfyUI",
        ),
        (
            "Thing",
            {"aux_id": "owner/pack", "ver": "9d9f4bedfc9f0321c19faf71855e228c93bd0dc9"},
            "from the node pack owner/pack 9d9f4bed; add",
        ),
        ("Thing", {"cnr_id": ["odd"], "ver": 3}, "ComfyUI or another node pack may have it: add a pack with --nodes"),
        ("UnCLIPDreams", {"cnr_id": "unclip", "ver": "9.1"}, "(the graph was saved with 9.1): update it"),
        ("ImageBlendd", {}, "; did you mean ImageBlend?"),
    ],
)
def test_where_a_node_comes_from(class_type, properties, told, save):
    said = said_of(class_type, properties, save)
    assert said.startswith(f"unknown node class {class_type!r}") and told in said


def test_what_a_saved_file_says_goes_no_further_than_the_message(save):
    """A graph of known nodes becomes what the editor's page sends, to the letter."""
    data = {"nodes": [{"id": 1, "type": "EmptyImage", "properties": {"cnr_id": "comfy-core"}}], "links": []}
    prompt, _ = to_checked_prompt(load_workflow(save(data)), node_classes())
    assert prompt["1"]["_meta"] == {"title": "EmptyImage"}


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ({"class_type": "ComfySwitchNode"}, "in versions after 0.3.64; update the server's ComfyUI"),
        ({"class_type": "SaveLoRANode"}, "replace it: the server's ComfyUI no longer has it"),
        ({"class_type": "X", "_meta": {"origin": {"pack": "some-pack"}}}, "some-pack; install that in the server's"),
        ({"class_type": "X"}, "install its pack in the server's ComfyUI"),
        ({"_meta": {"title": "My node"}}, "'My node' is not a node that is known here"),
    ],
)
def test_a_server_is_not_told_to_ask_a_server(node, told):
    declared = {"SaveImage": type("SaveImage", (), {"INPUT_TYPES": classmethod(lambda cls: {})})}
    said = why_unknown(node, declared)
    assert told in said and "--server" not in said and "--nodes" not in said


def test_the_table_has_every_node_of_the_editor_that_is_here_too():
    named = {name.strip() for names in core_nodes.THEMES.values() for name in names.split(",")}
    assert set(BUILTIN_CLASS_MAPPINGS) <= named and len(named) > 500


def test_a_text_that_a_node_shows_is_told(save, capsys, tmp_path):
    """A graph of the editor's own nodes alone, from its file to the line of its row."""
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 5, "height": 3, "batch_size": 2, "color": 0}},
        "2": {"class_type": "GetImageSize", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "ComfySwitchNode", "inputs": {"switch": True, "on_false": ["2", 2], "on_true": ["2", 0]}},
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
    }
    assert run(["run", str(save(graph)), "-o", str(tmp_path / "out"), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["texts"] for line in lines if line["event"] == "row"] == [{"4": ["5"]}]
