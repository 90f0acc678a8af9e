import pytest

from comfyui_unclip.workflows.ui_to_api import convert

NOISE = ("Noise", [("extra", "THING")], ["INT", "STRING"])
SHOW = ("Show", [("value", "*")], [], [])


def inputs(data, classes):
    prompt, problems = convert(data, classes)
    assert not problems
    return {node_id: node["inputs"] for node_id, node in prompt.items()}


def test_widgets_by_position_with_the_control_of_a_seed_skipped(ui, classes):
    data = ui({4: (*NOISE, [7, "randomize", "hard", 0.5, True])})
    assert inputs(data, classes) == {"4": {"seed": 7, "mode": "hard", "scale": 0.5, "on": True}}


def test_a_short_list_is_filled_with_defaults_and_a_dict_is_read_by_name(ui, classes):
    assert inputs(ui({4: (*NOISE, [7])}), classes)["4"] == {"seed": 7, "mode": "soft", "scale": 1.5, "on": False}
    assert inputs(ui({4: (*NOISE, {"scale": 0.25})}), classes)["4"]["scale"] == 0.25


def test_list_values_are_wrapped_so_that_they_do_not_read_as_links(ui, classes):
    assert inputs(ui({4: ("Number", [], ["INT"], [["3", 0]])}), classes)["4"] == {"value": {"__value__": ["3", 0]}}


def test_links_and_converted_widgets_win_over_widget_values(ui, classes):
    data = ui(
        {
            1: ("Number", [], ["INT"], [3]),
            2: ("Add", [("a", "INT"), ("b", "INT")], ["INT"], [9]),
            3: SHOW,
        },
        [(1, 0, 2, "a"), (1, 0, 2, "b"), (2, 0, 3, "value")],
    )
    data["nodes"][1]["inputs"][1]["widget"] = {"name": "b"}
    assert inputs(data, classes) == {"1": {"value": 3}, "2": {"a": ["1", 0], "b": ["1", 0]}, "3": {"value": ["2", 0]}}


def test_the_saved_target_slot_is_not_trusted(ui, classes):
    data = ui({1: ("Number", [], ["INT"], [3]), 3: SHOW}, [(1, 0, 3, "value")])
    data["links"][0][4] = 17
    assert inputs(data, classes)["3"] == {"value": ["1", 0]}


def test_links_as_dicts_are_read_too(ui, classes):
    data = ui({1: ("Number", [], ["INT"], [3]), 3: SHOW}, [(1, 0, 3, "value")])
    data["links"] = [{"id": 1, "origin_id": 1, "origin_slot": 0, "target_id": 3, "target_slot": 0, "type": "INT"}]
    assert inputs(data, classes)["3"] == {"value": ["1", 0]}


def test_reroutes_primitives_and_notes_dissolve(ui, classes):
    data = ui(
        {
            1: ("Number", [], ["INT"], [3]),
            2: ("Reroute", [("", "*")], ["*"], []),
            3: ("Reroute", [("", "*")], ["*"], []),
            4: ("PrimitiveNode", [], ["INT"], [8, "fixed"]),
            5: ("Add", [("a", "INT"), ("b", "INT")], ["INT"], [0]),
            6: ("Note", [], [], ["hello"]),
            7: ("MarkdownNote", [], [], ["# hello"]),
        },
        [(1, 0, 2, ""), (2, 0, 3, ""), (3, 0, 5, "a"), (4, 0, 5, "b")],
    )
    data["nodes"][4]["inputs"][1]["widget"] = {"name": "b"}
    assert inputs(data, classes) == {"1": {"value": 3}, "5": {"a": ["1", 0], "b": 8}}


def test_a_muted_node_vanishes_and_its_consumer_loses_the_input(ui, classes):
    data = ui(
        {1: ("Number", [], ["INT"], [3], {"mode": 2}), 2: ("Add", [("a", "INT"), ("b", "INT")], ["INT"], [9])},
        [(1, 0, 2, "b")],
    )
    data["nodes"][1]["inputs"][1]["widget"] = {"name": "b"}
    assert inputs(data, classes) == {"2": {}}


@pytest.mark.parametrize(
    ("sockets", "wanted", "expected"),
    [
        ([("x", "IMAGE"), ("y", "IMAGE")], "IMAGE", 1),  # the same place
        ([("x", "MASK"), ("y", "IMAGE")], "IMAGE", 2),  # the first of the wanted type
        ([("x", "MASK"), ("y", "IMAGE,MASK")], "IMAGE", 2),  # a union that has it
        ([("x", "MASK"), ("y", "IMAGE")], "*", 1),  # anything: the same place
        ([("x", "MASK"), ("y", "LATENT")], "IMAGE", None),  # nothing fits
    ],
)
def test_a_bypassed_node_passes_what_fits(ui, classes, sockets, wanted, expected):
    nodes = {
        1: ("Number", [], ["*"], [1]),
        2: ("Number", [], ["*"], [2]),
        3: ("Blend", sockets, ["IMAGE"], [], {"mode": 4}),
        4: ("Show", [("value", wanted)], [], []),
    }
    data = ui(nodes, [(1, 0, 3, "x"), (2, 0, 3, "y"), (3, 0, 4, "value")])
    found = inputs(data, classes)["4"]
    assert found == ({} if expected is None else {"value": [str(expected), 0]})


def test_a_bypassed_node_with_its_chosen_input_unlinked_passes_nothing(ui, classes):
    nodes = {
        2: ("Number", [], ["*"], [2]),
        3: ("Blend", [("x", "IMAGE"), ("y", "IMAGE")], ["IMAGE"], [], {"mode": 4}),
        4: ("Show", [("value", "IMAGE")], [], []),
    }
    assert inputs(ui(nodes, [(2, 0, 3, "y"), (3, 0, 4, "value")]), classes)["4"] == {}


def test_a_subgraph_is_refused_by_name(ui, classes):
    data = ui({5: ("7c7f-uuid", [], [], [])})
    data["definitions"] = {"subgraphs": [{"id": "7c7f-uuid", "name": "Two passes"}]}
    prompt, problems = convert(data, classes)
    assert not prompt and 'subgraph "Two passes"' in str(problems[0]) and "unpack it" in str(problems[0])


def test_broken_links_are_reported_with_node_and_input(ui, classes):
    data = ui({1: ("Number", [], ["INT"], [3]), 3: SHOW}, [(1, 0, 3, "value")])
    data["links"] = []
    (problem,) = convert(data, classes)[1]
    assert problem.kind == "bad_linked_input" and problem.node.startswith("node 3") and problem.input == "value"


def test_reroutes_in_a_circle_are_reported(ui, classes):
    data = ui(
        {2: ("Reroute", [("", "*")], ["*"], []), 4: ("Reroute", [("", "*")], ["*"], []), 3: SHOW},
        [(2, 0, 4, ""), (4, 0, 2, ""), (4, 0, 3, "value")],
    )
    (problem,) = convert(data, classes)[1]
    assert "circle of reroutes" in str(problem)


def test_an_unknown_class_keeps_its_links_for_preflight_to_name(ui, classes):
    data = ui(
        {1: ("Number", [], ["INT"], [3]), 2: ("Gone", [("x", "INT")], ["INT"], [4])},
        [(1, 0, 2, "x")],
    )
    prompt, problems = convert(data, classes)
    assert not problems and prompt["2"] == {"class_type": "Gone", "inputs": {"x": ["1", 0]}, "_meta": {"title": "Gone"}}
