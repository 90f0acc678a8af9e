import itertools

import pytest

from comfyui_unclip.workflows.graph import (
    WorkflowError,
    ancestors,
    find_cycle,
    is_link,
    load_workflow,
    node_name,
    topological_order,
)


def test_loads_both_forms_and_the_post_body(save, api, ui):
    prompt = api(n1=("Number", {"value": 1}))
    assert not load_workflow(save(prompt)).is_ui
    assert load_workflow(save({"prompt": prompt, "client_id": "x"})).data == prompt
    assert load_workflow(save(ui({1: ("Number", [], ["INT"], [1])}))).is_ui


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"nodes": [\n {"id": 1,}', "not valid JSON at line 2"),
        ("[1, 2]", "not a workflow"),
        ("{}", "not a workflow"),
        ('{"nodes": [{"type": "Number"}]}', "malformed node or link"),
        ('{"nodes": [{"id": 1, "type": "Number", "inputs": ["a"]}]}', "malformed node or link"),
        ('{"nodes": [], "links": [[1, 2]]}', "malformed node or link"),
    ],
)
def test_a_broken_file_is_one_line_with_its_name(save, text, said):
    path = save(text)
    with pytest.raises(WorkflowError) as caught:
        load_workflow(path)
    (problem,) = caught.value.problems
    assert said in str(problem) and str(path) in str(problem) and "\n" not in str(problem)


def test_a_missing_file_and_a_picture_are_named(tmp_path):
    with pytest.raises(WorkflowError, match="no such file"):
        load_workflow(tmp_path / "none.json")
    (tmp_path / "picture.json").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(WorkflowError, match="is not text"):
        load_workflow(tmp_path / "picture.json")
    with pytest.raises(WorkflowError, match="cannot be read"):
        load_workflow(tmp_path)


def test_links_are_told_from_constants():
    assert is_link(["3", 0])
    assert not any(is_link(value) for value in (["3"], [3, 0], ["3", 0.0], ["3", True], "3", {"__value__": ["3", 0]}))


def test_order_puts_origins_first_and_leaves_out_what_nobody_needs(api):
    prompt = api(
        n9=("Show", {"value": ["2", 0]}),
        n2=("Add", {"a": ["7", 0], "b": ["1", 0]}),
        n7=("Add", {"a": ["1", 0]}),
        n1=("Number", {}),
        n5=("Number", {}),
    )
    wanted = ancestors(prompt, ["9"])
    assert wanted == {"9", "2", "7", "1"}
    assert topological_order(prompt, wanted) == ["1", "7", "2", "9"]


def test_outputs_come_as_soon_as_they_can(api):
    prompt = api(
        n1=("Number", {}),
        n2=("Add", {"a": ["1", 0]}),
        n3=("Show", {"value": ["1", 0]}),
        n4=("Show", {"value": ["2", 0]}),
    )
    assert topological_order(prompt, set(prompt)) == ["1", "2", "3", "4"]
    assert topological_order(prompt, set(prompt), early=["3", "4"]) == ["1", "3", "2", "4"]


def test_a_cycle_is_found_in_flow_direction_however_deep(api):
    prompt = {str(i): {"class_type": "Add", "inputs": {"a": [str(i + 1), 0]}} for i in range(3000)}
    prompt["3000"] = {"class_type": "Add", "inputs": {}}
    assert find_cycle(prompt, set(prompt)) is None
    prompt["3000"]["inputs"]["a"] = ["2998", 0]
    cycle = find_cycle(prompt, set(prompt))
    assert sorted(cycle) == ["2998", "2999", "3000"]
    feeds = {node: prompt[node]["inputs"]["a"][0] for node in cycle}
    assert all(feeds[after] == before for before, after in itertools.pairwise(cycle))
    with pytest.raises(ValueError, match="cycle"):
        topological_order(prompt, set(prompt))


def test_nodes_are_named_by_saved_title_then_class_title(classes):
    assert node_name("4", {"type": "Words", "title": "prompt"}, classes) == 'node 4 "prompt" (Words)'
    assert node_name("4", {"class_type": "Number", "_meta": {"title": "n"}}, classes) == 'node 4 "n" (Number)'
    assert node_name("4", {"class_type": "Gone"}, classes) == "node 4 (Gone)"
