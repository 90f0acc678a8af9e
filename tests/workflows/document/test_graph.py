"""The API form of a graph: links, ancestors, order, cycles, names of nodes, problems in one line."""

import itertools

from comfyui_unclip.workflows.document.graph import (
    Problem,
    ancestors,
    is_link,
    node_name,
    origins_among,
    topological_order,
)


def test_problems_are_one_printable_line():
    problem = Problem("invalid_prompt", "is\nbad \x1b[2J" + "x" * 5000 + "; fix it", 'node 1 "a\tb"')
    assert str(problem).startswith('node 1 "a b": is bad \\x1b[2Jxx') and str(problem).endswith("; fix it")
    assert str(problem).isprintable() and len(str(problem)) < 1100


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
    assert topological_order(origins_among(prompt, wanted)) == (["1", "7", "2", "9"], [])


def test_a_cycle_is_found_in_flow_direction_however_deep(api):
    prompt = {str(i): {"class_type": "Add", "inputs": {"a": [str(i + 1), 0]}} for i in range(3000)}
    prompt["3000"] = {"class_type": "Add", "inputs": {}}
    order, cycle = topological_order(origins_among(prompt, prompt))
    assert order == [str(i) for i in range(3000, -1, -1)] and not cycle
    prompt["3000"]["inputs"]["a"] = ["2998", 0]
    prompt["alone"] = {"class_type": "Number", "inputs": {}}
    order, cycle = topological_order(origins_among(prompt, prompt))
    assert sorted(cycle) == ["2998", "2999", "3000"] and order == ["alone"]
    feeds = {node: prompt[node]["inputs"]["a"][0] for node in cycle}
    assert all(feeds[after] == before for before, after in itertools.pairwise(cycle))


def test_nodes_are_named_by_saved_title_then_class_title(classes):
    assert node_name("4", {"type": "Words", "title": "prompt"}, classes) == 'node 4 "prompt" (Words)'
    assert node_name("4", {"class_type": "Number", "_meta": {"title": "n"}}, classes) == 'node 4 "n" (Number)'
    assert node_name("4", {"class_type": "Gone"}, classes) == "node 4 (Gone)"
