"""What preparing and running rows costs: each thing is read and checked once."""

import json

import pytest

from comfyui_unclip.nodes.host import LocalHost, use_host
from comfyui_unclip.workflows import run
from comfyui_unclip.workflows.document.reading import load_workflow
from comfyui_unclip.workflows.document.schema import node_classes
from comfyui_unclip.workflows.engine.node_packs import load_pack
from comfyui_unclip.workflows.rows.jobs import build
from comfyui_unclip.workflows.rows.prepared import prepare

PACK = """
class Checked:
    RETURN_TYPES = ()
    FUNCTION = "go"
    OUTPUT_NODE = True
    checks = []

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"default": 1, "min": 0, "max": 10})}}

    @classmethod
    def VALIDATE_INPUTS(cls, value):
        cls.checks.append(value)
        return True

    def go(self, value):
        return {"ui": {"text": [str(value)]}}


NODE_CLASS_MAPPINGS = {"Checked": Checked}
"""


@pytest.mark.parametrize("form", ["saved", "api"])
def test_every_class_is_asked_for_its_inputs_once(form, repository, tiny_stack, tmp_path, monkeypatch):
    """One `-s`, which looks through all widgets of the graph, and everything else up to the start."""
    classes = {name: type(name, (node_class,), {}) for name, node_class in node_classes().items()}
    calls = []
    for name, node_class in classes.items():

        def counted(cls, name=name, declared=node_class.INPUT_TYPES):
            calls.append(name)
            return declared()

        monkeypatch.setattr(node_class, "INPUT_TYPES", classmethod(counted))
    workflow = load_workflow(repository / "workflows" / "text_to_image.json")
    with use_host(LocalHost(tmp_path / "out", tmp_path)):
        if form == "api":
            (tmp_path / "api.json").write_text(json.dumps(prepare(workflow, build([]), classes).prompt))
            workflow = load_workflow(tmp_path / "api.json")
            calls.clear()
        prepared = prepare(workflow, build(["seed=3"], None, ["eta=0,1"]), classes)
    assert prepared.assigned and len(calls) == len(set(calls)) >= 6


def test_a_row_is_checked_once(tmp_path):
    (tmp_path / "pack.py").write_text(PACK)
    graph = tmp_path / "graph.json"
    graph.write_text(json.dumps({"1": {"class_type": "Checked", "inputs": {"value": 5}}}))
    checks = load_pack(tmp_path / "pack.py")["Checked"].checks
    report = run(graph, output=tmp_path / "out", nodes=(tmp_path / "pack.py",))
    assert report.rows[0].texts == {"1": ["5"]} and checks == [5]
    checks.clear()
    report = run(graph, sweep={"value": [3, 4]}, output=tmp_path / "out", nodes=(tmp_path / "pack.py",))
    assert [row.texts for row in report.rows] == [{"1": ["3"]}, {"1": ["4"]}] and sorted(checks) == [3, 4]


def test_a_graph_in_api_form_is_left_alone_by_its_run(tmp_path):
    (tmp_path / "pack.py").write_text(PACK)
    graph = tmp_path / "graph.json"
    graph.write_text(json.dumps({"1": {"class_type": "Checked", "inputs": {"value": 5}}}))
    workflow = load_workflow(graph)
    report = run(workflow, {"value": 7}, output=tmp_path / "out", nodes=(tmp_path / "pack.py",))
    assert report.rows[0].texts == {"1": ["7"]} and workflow.data["1"]["inputs"] == {"value": 5}
