"""`-s NAME=VALUE`: what a NAME means, the VALUE at its type, and what the saved graph has afterwards."""

import pytest

from comfyui_unclip.workflows.document.conversion import convert
from comfyui_unclip.workflows.document.reading import load_workflow
from comfyui_unclip.workflows.settings.reading import settings
from comfyui_unclip.workflows.settings.writing import apply


@pytest.fixture
def saved(ui, save):
    """A saved graph: two seeds, one linked number, a titled caption, a primitive."""
    data = ui(
        {
            1: (
                "Noise",
                [("extra", "THING")],
                ["INT", "STRING"],
                [7, "randomize", "hard", 0.5, True],
                {"title": "first"},
            ),
            2: ("Noise", [("extra", "THING")], ["INT", "STRING"], [8], {"title": "twin"}),
            3: ("Noise", [], ["INT", "STRING"], [9], {"title": "twin"}),
            4: ("Words", [], ["STRING"], ["old"], {"title": "prompt"}),
            5: ("Add", [("a", "INT"), ("b", "INT")], ["INT"], [0]),
            6: ("PrimitiveNode", [], ["INT"], [3, "fixed"], {"title": "amount"}),
            7: ("Note", [], [], ["seed=1"]),
        },
        [(1, 0, 5, "a"), (6, 0, 5, "b")],
    )
    data["nodes"][4]["inputs"][1]["widget"] = {"name": "b"}
    return load_workflow(save(data))


def pairs(assignments):
    return [assignment.partition("=")[::2] for assignment in assignments]


def set_one(workflow, classes, *assignments):
    lines, problems = apply(workflow, pairs(assignments), classes)
    assert not problems, problems
    return list(map(str, lines)), convert(workflow.data, classes)[0]


def test_a_bare_title_sets_the_first_widget(saved, classes):
    lines, prompt = set_one(saved, classes, "prompt=a star = a star")
    assert prompt["4"]["inputs"] == {"text": "a star = a star"}
    assert lines == ["set prompt.text = 'a star = a star'  (node 4)"]


def test_title_and_id_with_an_input(saved, classes):
    _, prompt = set_one(saved, classes, "first.scale=0.25", "2.mode=hard", "3=41")
    assert prompt["1"]["inputs"]["scale"] == 0.25
    assert prompt["2"]["inputs"] == {"seed": 8, "mode": "hard", "scale": 1.5, "on": False}
    assert prompt["3"]["inputs"]["seed"] == 41


def test_an_input_name_sets_it_everywhere_and_leaves_the_rest(saved, classes):
    lines, prompt = set_one(saved, classes, "seed=18446744073709551615")
    assert [prompt[node_id]["inputs"]["seed"] for node_id in "123"] == [2**64 - 1] * 3
    assert prompt["1"]["inputs"] | {"seed": 0} == {"seed": 0, "mode": "hard", "scale": 0.5, "on": True}
    assert len(lines) == 3
    assert saved.data["nodes"][0]["widgets_values"] == [2**64 - 1, "randomize", "hard", 0.5, True]


def test_a_title_wins_over_an_input_name(saved, classes):
    saved.data["nodes"][3]["title"] = "seed"
    _, prompt = set_one(saved, classes, "seed=1")
    assert prompt["4"]["inputs"]["text"] == "1" and prompt["1"]["inputs"]["seed"] == 7


def test_a_short_list_is_filled_so_that_the_control_keeps_its_place(saved, classes):
    set_one(saved, classes, "2.scale=0.75")
    assert saved.data["nodes"][1]["widgets_values"] == [8, "fixed", "soft", 0.75, False]


def test_a_primitive_is_typed_by_what_it_feeds(saved, classes):
    lines, prompt = set_one(saved, classes, "amount=12")
    assert prompt["5"]["inputs"]["b"] == 12 and lines == ["set amount.value = 12  (node 6)"]


def test_named_widget_values_of_recent_editors_follow(saved, classes):
    saved.data["nodes"][3]["widgets_values_named"] = {"text": "old"}
    set_one(saved, classes, "prompt=new")
    assert saved.data["nodes"][3]["widgets_values_named"] == {"text": "new"}


def test_values_that_are_saved_by_name_alone_keep_the_others(saved, classes):
    del saved.data["nodes"][0]["widgets_values"]
    saved.data["nodes"][0]["widgets_values_named"] = {"seed": 7, "mode": "hard", "scale": 0.5, "on": True}
    _, prompt = set_one(saved, classes, "first.seed=8")
    assert prompt["1"]["inputs"] == {"seed": 8, "mode": "hard", "scale": 0.5, "on": True}


@pytest.mark.parametrize(("text", "value"), [("true", True), ("Off", False), ("1", True)])
def test_booleans_are_read_as_people_write_them(saved, classes, text, value):
    assert set_one(saved, classes, f"first.on={text}")[1]["1"]["inputs"]["on"] is value


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("promt=x", "did you mean 'prompt'?"),
        ("nothing=x", "it has first.seed"),
        ("first.sped=1", "has no input 'sped'; it has seed, mode, scale, on"),
        ("twin=1", "2 nodes are titled 'twin'; use an id: 2, 3"),
        ("b=1", "linked on every node"),
        ("5.b=1", "is linked; set the node that feeds it"),
        ("seed=abc", "'abc' is not a whole number; seed takes 0 to 18446744073709551615"),
        ("seed=1.5", "'1.5' is not a whole number"),
        ("first.on=maybe", "neither true nor false"),
    ],
)
def test_what_cannot_be_set_is_refused_with_a_hint(saved, classes, assignment, said):
    before = saved.copy().data
    lines, problems = apply(saved, pairs([assignment]), classes)
    assert not lines and len(problems) == 1
    assert said in str(problems[0]) and str(problems[0]).startswith(f"-s {assignment}: ")
    assert saved.data == before


def test_all_refusals_come_at_once(saved, classes):
    assert len(apply(saved, pairs(["a=", "b=1", "prompt=fine", "c=2"]), classes)[1]) == 3


def test_api_files_are_set_too_and_linked_inputs_left_alone(api, save, classes):
    prompt = api(
        n1=("Noise", {"seed": 1, "mode": "soft", "scale": 1.0}, "first"),
        n2=("Noise", {"seed": ["1", 0], "mode": "soft", "scale": 1.0}),
    )
    workflow = load_workflow(save(prompt))
    lines, problems = apply(workflow, pairs(["seed=5", "first.mode=hard"]), classes)
    assert not problems and len(lines) == 2
    assert workflow.data["1"]["inputs"] == {"seed": 5, "mode": "hard", "scale": 1.0}
    assert workflow.data["2"]["inputs"]["seed"] == ["1", 0]


def test_settings_tell_what_is_linked(saved, classes):
    linked = {setting.name: setting.linked for setting in settings(saved, classes)}
    assert linked["Add.b"] and not linked["prompt.text"] and "amount.value" in linked
