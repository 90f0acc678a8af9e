"""What is wrong with a graph, as lines for a person: node, input, value and fix, all at once."""

import pytest

from comfyui_unclip.nodes.builtin import BUILTIN_CLASS_MAPPINGS
from comfyui_unclip.nodes.host import LocalHost, use_host
from comfyui_unclip.workflows.checks.validation import validate
from comfyui_unclip.workflows.document.schema import node_classes

GOOD = {"seed": 1, "mode": "soft", "scale": 1.0}


def check(prompt, classes):
    """(the prompt with its constants at their types, every problem of it)"""
    validation = validate(prompt, classes)
    return validation.prompt, validation.problems(classes)


def kinds(prompt, classes):
    return [(problem.kind, problem.input) for problem in check(prompt, classes)[1]]


def noise(api, **changes):
    given = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    return api(n1=("Noise", given, "my noise"), n2=("Show", {"value": ["1", 0]}))


def test_a_good_graph_has_no_problem_and_values_get_their_types(api, classes):
    prompt, problems = check(noise(api, seed=5.7, scale=1, on="false"), classes)
    assert not problems
    # As the editor's server has it: int() cuts, and any text but the empty one is true.
    assert prompt["1"]["inputs"] == {"seed": 5, "mode": "soft", "scale": 1.0, "on": True}
    assert isinstance(prompt["1"]["inputs"]["scale"], float)


def test_the_given_prompt_is_left_alone(api, classes):
    prompt = noise(api, seed=5.7)
    check(prompt, classes)
    assert prompt["1"]["inputs"]["seed"] == 5.7


@pytest.mark.parametrize(
    ("changes", "kind", "name", "said"),
    [
        ({"seed": None}, "required_input_missing", "seed", "has no value"),
        ({"seed": "many"}, "invalid_input_type", "seed", "'many' is not of type INT"),
        ({"seed": -1}, "value_smaller_than_min", "seed", "-1 is below the minimum 0"),
        ({"scale": 2.5}, "value_bigger_than_max", "scale", "2.5 is above the maximum 2.0"),
        ({"scale": float("nan")}, "value_bigger_than_max", "scale", "0.0 to 2.0"),
        ({"mode": "loud"}, "value_not_in_list", "mode", "choose one of soft, hard"),
        ({"mode": ["9", 0]}, "bad_linked_input", "mode", "node 9, which is not in the graph"),
        ({"mode": [1, 2, 3]}, "bad_linked_input", "mode", "[1, 2, 3] is neither a value nor a link"),
        ({"extra": ["3", 4]}, "bad_linked_input", "extra", "output 4 of node 3 (Number), which has 1"),
        ({"scale": ["3", 0]}, "return_type_mismatch", "scale", "wants FLOAT"),
    ],
)
def test_each_problem_names_node_input_value_and_fix(api, classes, changes, kind, name, said):
    prompt = noise(api, **changes) | api(n3=("Number", {"value": 1}))
    (problem,) = check(prompt, classes)[1]
    assert (problem.kind, problem.input) == (kind, name)
    assert said in problem.message and str(problem).startswith(f'node 1 "my noise" (Noise), {name}: ')
    assert "\n" not in str(problem)


def test_a_constant_may_go_into_a_socket_unless_json_cannot_hold_its_type(api, classes):
    assert not kinds(noise(api, extra={"a": 1}), classes)  # the editor's server passes it on
    for kind in ("IMAGE", "UNCLIP_EMBED"):
        classes["Noise"].INPUT_TYPES = classmethod(lambda cls, kind=kind: {"optional": {"picture": (kind,)}})
        prompt = api(n1=("Noise", {"picture": "cat.png"}, "my noise"), n2=("Show", {"value": ["1", 0]}))
        (problem,) = check(prompt, classes)[1]
        assert str(problem).endswith(f"picture: wants a link of type {kind}, got 'cat.png'; link it to a node")
        prompt["1"]["inputs"]["picture"] = None  # as good as not given
        assert not kinds(prompt, classes)


def test_all_problems_come_at_once(api, classes):
    prompt = noise(api, seed=-1, mode="loud", scale="x") | api(n4=("Shwo", {}), n5=("Show", {}))
    assert kinds(prompt, classes) == [
        ("invalid_prompt", ""),
        ("value_smaller_than_min", "seed"),
        ("value_not_in_list", "mode"),
        ("invalid_input_type", "scale"),
        ("required_input_missing", "value"),
    ]
    assert "did you mean Show?" in str(check(prompt, classes)[1][0])


def test_a_node_that_only_comfyui_has_is_said_to_be_one_and_not_taken_for_another(api):
    """A page leaves the class out that it does not know itself, and keeps the node's title."""
    for entry in ({"class_type": "ImageQuantize", "inputs": {}}, {"inputs": {}, "_meta": {"title": "ImageQuantize"}}):
        (problem, *_) = check({"1": entry} | api(n2=("SaveImage", {})), BUILTIN_CLASS_MAPPINGS)[1]
        assert "'ImageQuantize'" in str(problem) and "on ComfyUI" in str(problem)
        assert "ImageBlend" not in str(problem) and "class_type" not in str(problem)


def test_only_what_an_output_needs_is_checked_but_every_class_must_exist(api, classes):
    assert not kinds(noise(api) | api(n7=("Noise", {"seed": -5})), classes)
    assert kinds(noise(api) | api(n7=("Missing", {})), classes) == [("invalid_prompt", "")]


def test_a_graph_without_outputs_is_refused(api, classes):
    assert kinds(api(n1=("Number", {"value": 1})), classes) == [("prompt_no_outputs", "")]


def test_a_cycle_is_drawn(api, classes):
    prompt = api(
        n1=("Add", {"a": ["2", 0], "b": 1}), n2=("Add", {"a": ["1", 0], "b": 1}), n3=("Show", {"value": ["2", 0]})
    )
    (problem,) = check(prompt, classes)[1]
    assert problem.kind == "exception_during_inner_validation"
    assert "1 -> 2 -> 1" in problem.message or "2 -> 1 -> 2" in problem.message


def test_what_needs_a_cycle_cannot_be_made_and_the_rest_can(api, classes):
    prompt = api(
        n1=("Add", {"a": ["2", 0], "b": 1}),
        n2=("Add", {"a": ["1", 0], "b": 1}),
        n3=("Show", {"value": ["2", 0]}),
        n4=("Number", {"value": 1}),
        n5=("Show", {"value": ["4", 0]}),
        n6=("Number", {"value": 99}),
        n7=("Add", {"a": ["6", 0], "b": 1}),
        n8=("Show", {"value": ["7", 0]}),
    )
    validation = validate(prompt, classes)
    assert validation.good_outputs == ["5"] and validation.error is None
    dependent = {node_id: entry["dependent_outputs"] for node_id, entry in validation.errors.items()}
    assert dependent["6"] == ["8"] and ["3"] in dependent.values()


def test_a_node_checks_its_own_constants_but_not_its_links(api, classes):
    empty = api(n1=("Words", {"text": "  "}), n2=("Show", {"value": ["1", 0]}))
    (problem,) = check(empty, classes)[1]
    assert (problem.kind, problem.input) == ("custom_validation_failed", "text")
    assert str(problem) == "node 1 (Words), text: is empty; write something"
    linked = api(n0=("Words", {"text": "hi"}), n1=("Words", {"text": ["0", 0]}), n2=("Show", {"value": ["1", 0]}))
    assert not kinds(linked, classes)


def test_naming_an_input_switches_its_range_off_and_kwargs_all_of_them(api, classes):
    def own(cls, value=None):
        return True if value == 99 else "not 99"

    classes["Number"].VALIDATE_INPUTS = classmethod(own)
    prompt = api(n1=("Number", {"value": 99}), n2=("Show", {"value": ["1", 0]}))
    assert not kinds(prompt, classes)
    classes["Noise"].VALIDATE_INPUTS = classmethod(lambda cls, **values: True)
    assert not kinds(noise(api, seed=-1, mode="loud"), classes)


def test_naming_input_types_switches_link_checks_off_and_receives_them(api, classes):
    seen = {}

    def own(cls, input_types):
        seen.update(input_types)
        return True

    classes["Noise"].VALIDATE_INPUTS = classmethod(own)
    prompt = noise(api, scale=["3", 0]) | api(n3=("Number", {"value": 1}))
    assert not kinds(prompt, classes)
    assert seen == {"scale": "INT"}


def test_an_exception_in_a_nodes_own_check_is_a_problem_not_a_crash(api, classes):
    def own(cls, value):
        raise KeyError("lost")

    classes["Number"].VALIDATE_INPUTS = classmethod(own)
    prompt = api(n1=("Number", {"value": 1}), n2=("Show", {"value": ["1", 0]}))
    assert kinds(prompt, classes) == [("exception_during_validation", "value")]


def test_wrapped_lists_and_windows_separators(api, classes):
    classes["Noise"].INPUT_TYPES = classmethod(
        lambda cls: {"required": {"file": (["a/b.png"],), "any": ("COMBO", {"options": [[1, 2]]})}}
    )
    prompt = api(n1=("Noise", {"file": "a\\b.png", "any": {"__value__": [1, 2]}}), n2=("Show", {"value": ["1", 0]}))
    checked, problems = check(prompt, classes)
    assert not problems and checked["1"]["inputs"] == {"file": "a/b.png", "any": [1, 2]}


def test_broken_entries_are_named(classes):
    found = [str(problem) for problem in check({"1": {"inputs": {}}, "2": {"class_type": "Show"}}, classes)[1]]
    assert found == [
        "node 1: has no class_type; export the graph again",
        "node 2 (Show): has no inputs; export the graph again",
    ]


@pytest.mark.parametrize(("side", "slot", "other"), [(256, 4, 1024), (1024, 3, 256)])
def test_an_upsampler_on_the_other_ones_node_is_found_before_any_work(api, tiny_stack, side, slot, other):
    classes = node_classes()

    def found(slot):
        prompt = api(
            n1=("UnCLIPLoader", {"model_name": tiny_stack, "dtype": "auto"}),
            n2=("UnCLIPExamplePicture", {"name": "blue car by the sea"}),
            n3=(
                f"UnCLIPUpsample{side}",
                {"upsampler": ["1", slot], "image": ["2", 0], "steps": 0, "seed": 0, "crop": "center"},
            ),
            n4=("PreviewImage", {"images": ["3", 0]}),
        )
        return check(prompt, classes)[1]

    (problem,) = found(slot)
    assert (problem.kind, problem.input) == ("return_type_mismatch", "upsampler")
    assert f'is linked to UPSAMPLER {other} of node 1 "Load unCLIP"' in problem.message
    assert problem.message.endswith(f"link its UPSAMPLER {side}")
    assert not found(7 - slot)


PATHS = ("../x", "../../etc/passwd", "/etc/passwd", "..\\..\\x", "a/../../x", "a\0b", "../x [output]", "/dev/zero")


@pytest.mark.parametrize("path", [*PATHS, "x" * 5000])
def test_paths_out_of_the_folders_are_listed_and_nothing_is_touched(path, tmp_path):
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": path}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": path}},
    }
    (tmp_path / "input").mkdir()
    with use_host(LocalHost(tmp_path / "output", tmp_path / "input")):
        found = {name for _, name in kinds(prompt, node_classes())}
    assert found - {"filename_prefix"} == {"image"}
    assert "filename_prefix" in found or path not in PATHS
    assert [entry.name for entry in tmp_path.iterdir()] == ["input"]
