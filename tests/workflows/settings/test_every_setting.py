"""Every value of every case that is offered can be set, and the converted graph has it and nothing else changed."""

import copy
from pathlib import Path

import pytest

from comfyui_unclip.tests.workflows import editor_cases
from comfyui_unclip.workflows.document.conversion import convert, to_api
from comfyui_unclip.workflows.document.reading import Workflow
from comfyui_unclip.workflows.rows.jobs import build
from comfyui_unclip.workflows.rows.prepared import prepare
from comfyui_unclip.workflows.settings.reading import settings
from comfyui_unclip.workflows.settings.writing import apply

CLASSES = editor_cases.classes()
OTHER = {"INT": "7", "FLOAT": "0.125", "STRING": "another", "BOOLEAN": "true"}


def workflow(name):
    return Workflow(Path("case.json"), copy.deepcopy(editor_cases.CASES[name]), True)


def inputs(graph):
    prompt, _ = convert(graph.data, CLASSES)
    return {(node_id, name): value for node_id, node in prompt.items() for name, value in node["inputs"].items()}


@pytest.mark.parametrize("name", [name for name in editor_cases.CASES if not name.startswith("names from other")])
def test_what_is_offered_can_be_set_and_nothing_else_changes(name):
    before = inputs(workflow(name))
    for setting in settings(workflow(name), CLASSES):
        if setting.linked or setting.shared or setting.spec.type not in OTHER:
            continue
        graph = workflow(name)
        done, problems = apply(graph, [(f"{setting.node_id}.{setting.spec.name}", OTHER[setting.spec.type])], CLASSES)
        if problems:  # a widget that the file has no place for says so, and the file is left alone
            assert "no place of its own" in str(problems[0]) and inputs(graph) == before
            continue
        after = inputs(graph)
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert {after[key] for key in changed} <= {done[0].value}
        own = (setting.node_id, setting.spec.name)
        assert own not in after or after[own] == done[0].value, setting.name


def test_a_promoted_widget_is_set_by_the_instance():
    graph = workflow("subgraph, values in another order")
    title = next(s.title for s in settings(graph, CLASSES) if s.node_id == "6")
    done, problems = apply(graph, [(f"{title}.text", "said"), ("6.seed", "3")], CLASSES)
    assert not problems and [assigned.node_id for assigned in done] == ["6", "6"]
    prompt, _ = to_api(graph, CLASSES)
    assert prompt["6:1"]["inputs"]["text"] == "said" and prompt["6:3"]["inputs"]["seed"] == 3


def test_a_shared_inner_node_is_refused_by_name_and_its_instances_are_not():
    graph = workflow("subgraph, twice")
    _, problems = apply(graph, [("6:3.scale", "1.0")], CLASSES)
    assert "used several times" in str(problems[0])
    assert not apply(graph, [("6.text", "one"), ("8.text", "two")], CLASSES)[1]
    prompt, _ = to_api(graph, CLASSES)
    assert (prompt["6:1"]["inputs"]["text"], prompt["8:1"]["inputs"]["text"]) == ("one", "two")


def test_a_primitive_inside_a_subgraph_is_set_like_one_outside():
    graph = workflow("subgraph with a primitive inside")
    done, problems = apply(graph, [("6:1", "7")], CLASSES)
    assert not problems and [(each.node_id, each.value) for each in done] == [("6:1", 7)]
    assert inputs(graph)["6:2", "value"] == 7


def test_a_sweep_by_input_name_reaches_every_instance():
    graph = workflow("subgraph, twice")
    prepared = prepare(graph, build([], None, ["mode=soft,hard"]), CLASSES)
    modes = [[prepared.row_prompt(row)[node]["inputs"]["mode"] for node in ("6:3", "8:3")] for row in (1, 2)]
    assert modes == [["soft", "soft"], ["hard", "hard"]]
