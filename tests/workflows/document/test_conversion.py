"""From a saved graph to the API form; the editor's own exports are the reference (tests/tools/editor_references.py)."""

import json
from pathlib import Path

import pytest

from comfyui_unclip.tests.workflows import editor_cases
from comfyui_unclip.workflows.document.conversion import convert
from comfyui_unclip.workflows.document.schema import node_classes, node_schema

HERE = Path(__file__).parents[1]
DATA = HERE.parent / "data"
SHIPPED = sorted((HERE.parents[1] / "workflows").glob("*.json"))
GRAPHS = [path for path in SHIPPED if not path.stem.endswith("_comfyui")]  # the others need nodes of ComfyUI's
EXPORTS = json.loads((DATA / "editor_cases.json").read_text(encoding="utf-8"))

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


@pytest.mark.parametrize("name", editor_cases.CASES)
def test_hand_made_cases_convert_to_the_editors_own_export(name):
    assert name in EXPORTS, f"no reference for {name!r}: run tests/tools/editor_references.py --cases"
    prompt, problems = convert(editor_cases.CASES[name], editor_cases.classes())
    assert not problems
    assert {node_id: {k: node[k] for k in ("class_type", "inputs")} for node_id, node in prompt.items()} == EXPORTS[
        name
    ]


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda path: path.stem)
def test_our_own_graphs_convert_to_the_editors_own_export(graph):
    reference = DATA / "editor" / graph.name
    assert reference.is_file(), f"{graph.name} has no reference: run tests/tools/editor_references.py"
    classes = node_classes()
    prompt, problems = convert(json.loads(graph.read_text(encoding="utf-8")), classes)
    assert not problems
    exported = json.loads(reference.read_text(encoding="utf-8"))
    for node_id, node in prompt.items():  # an input that its class got after the export has its default
        specs = node_schema(classes[node["class_type"]]).inputs
        later = node["inputs"].keys() - exported.get(node_id, node)["inputs"].keys()
        assert all(node["inputs"].pop(name) == specs[name].default for name in later), f"{graph.name}: export it again"
    assert prompt == exported, f"{graph.name} changed since its export? run tests/tools/editor_references.py"


def test_a_subgraph_in_itself_is_reported_and_too_many_nodes_too(ui, classes):
    data = ui({5: ("A", [], [], [])})
    data["definitions"] = {"subgraphs": [_nodes_of("A", "B"), _nodes_of("B", "A")]}
    (problem,) = convert(data, classes)[1]
    assert 'subgraph "A" holds itself (node 5:0:0)' in str(problem)
    many = [_nodes_of(str(level), *[str(level + 1)] * 50) for level in range(8)]
    data = ui({5: ("0", [], [], [])}) | {"definitions": {"subgraphs": [*many, _nodes_of("8")]}}
    (problem,) = convert(data, classes)[1]
    assert "more than 100,000 nodes" in str(problem)
    deep = [_nodes_of(str(level), str(level + 1)) for level in range(80)]
    data = ui({5: ("0", [], [], [])}) | {"definitions": {"subgraphs": [*deep, _nodes_of("80")]}}
    (problem,) = convert(data, classes)[1]
    assert "more than 64 deep" in str(problem)


def _nodes_of(name, *types):
    nodes = [{"id": number, "type": type_} for number, type_ in enumerate(types)]
    return {"id": name, "name": name, "nodes": nodes, "links": []}


def test_empty_definitions_are_none(ui, classes):
    for definitions in (None, {}, {"subgraphs": None}, {"subgraphs": []}):
        data = ui({4: (*NOISE, [7])}) | {"definitions": definitions}
        assert inputs(data, classes)["4"]["seed"] == 7


def test_ids_that_are_there_twice_are_listed(ui, classes):
    data = ui({1: ("Number", [], ["INT"], [3]), 2: ("Number", [], ["INT"], [4])})
    data["nodes"][1]["id"] = "1"
    data["definitions"] = {"subgraphs": [_nodes_of("A"), _nodes_of("A")]}
    said = " ".join(map(str, convert(data, classes)[1]))
    assert "node 1: is there twice" in said and "two subgraphs" in said


def test_a_group_node_of_an_old_editor_is_refused_by_name(ui, classes):
    (problem,) = convert(ui({5: ("workflow>Two passes", [], [], [])}), classes)[1]
    assert "workflow>Two passes" in str(problem) and "convert it to a subgraph" in str(problem)


def test_recent_files_may_carry_their_values_by_name_alone(ui, classes):
    data = ui({4: (*NOISE, None, {"widgets_values_named": {"seed": 7, "scale": 0.25}})})
    assert inputs(data, classes)["4"] == {"seed": 7, "mode": "soft", "scale": 0.25, "on": False}


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
