"""What a Session keeps between runs, what it says while it works, and validation in the editor's shape; beside what
test_executor_references.py holds against a real ComfyUI."""

import math
import threading
import weakref

import pytest

from comfyui_unclip.nodes.host import LocalHost
from comfyui_unclip.workflows.engine.session import Session


@pytest.fixture
def session(classes):
    return Session(LocalHost(quiet=True), classes)


def chain(api, first=1, last=5):
    """Number -> Add -> Show."""
    return api(
        n1=("Number", {"value": first}), n2=("Add", {"a": ["1", 0], "b": last}), n3=("Show", {"value": ["2", 0]})
    )


def ran(session, prompt, **options):
    """The ids that ran, and those that did not have to."""
    outcome = session.run(session.validate(prompt).prompt, **options)
    assert outcome.error is None, outcome.error
    return outcome.executed, outcome.cached


# --- the cache -------------------------------------------------------------------------------------------------------


def test_what_a_node_is_counts_not_its_id_unless_it_asks_for_it(session, api, classes):
    ran(session, chain(api))
    renamed = api(n7=("Number", {"value": 1}), n8=("Add", {"a": ["7", 0], "b": 5}), n9=("Show", {"value": ["8", 0]}))
    assert ran(session, renamed)[0] == ["9"]  # Show asks for UNIQUE_ID
    classes["Number"].NOT_IDEMPOTENT = True
    ran(session, chain(api))
    assert ran(session, renamed)[0] == ["7", "8", "9"]


def test_values_that_python_takes_for_equal_are_not(classes, api):
    session = Session(LocalHost(quiet=True), classes, cache_limit=100)
    for value in (1, True, 1.0, "1", None, [1, 2, 3]):
        prompt = api(n1=("Number", {"value": value}), n2=("Show", {"value": ["1", 0]}))
        assert session.run(prompt).executed == ["1", "2"]


@pytest.mark.parametrize(
    ("answers", "again"),
    [
        (["a", "a"], False),
        (["a", "b"], True),
        ([math.nan, math.nan], True),
        ([{"deep": [math.nan]}] * 2, True),
        ([b"x", b"x"], False),
        ([object(), object()], True),
        ([ValueError("broken")] * 2, True),
        ([SystemExit(3)] * 2, True),
    ],
)
def test_is_changed_decides(session, api, classes, answers, again):
    answers = list(answers)

    def is_changed(cls, value):
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    classes["Number"].IS_CHANGED = classmethod(is_changed)
    ran(session, chain(api))
    assert (ran(session, chain(api))[0] == ["1", "2", "3"]) is again


def test_is_changed_sees_constants_alone(session, api, classes):
    seen = []
    classes["Add"].IS_CHANGED = classmethod(lambda cls, **values: seen.append(values))
    classes["Show"].IS_CHANGED = classmethod(lambda cls, **values: seen.append(values))
    ran(session, chain(api))
    assert seen == [{"a": None, "b": 5}, {"value": None, "prompt": {}, "extra": None, "me": "3"}]


def test_a_nodes_instance_lives_as_long_as_it_is_in_the_prompt(session, api, classes):
    made = []
    classes["Number"].__init__ = lambda self: made.append(weakref.ref(self))
    classes["Number"].IS_CHANGED = classmethod(lambda cls, value: math.nan)
    ran(session, chain(api))
    ran(session, chain(api, first=2))
    assert len(made) == 1 and made[0]() is not None
    ran(session, api(n5=("Noise", {"seed": 1, "mode": "soft", "scale": 1.0}), n6=("Show", {"value": ["5", 0]})))
    assert made[0]() is None


class Big:
    """An output whose life can be watched."""

    def __init__(self):
        ALIVE.add(self)


ALIVE = weakref.WeakSet()


@pytest.fixture
def big(classes):
    """Number makes a Big; Add takes it and gives its own `b`."""
    ALIVE.clear()
    classes["Number"].go = lambda self, value: (Big(),)
    classes["Add"].go = lambda self, a, b: (b,)
    return lambda: len(ALIVE)


@pytest.mark.parametrize(("limit", "kept"), [(None, 1), (0, 0), (3, 2), (100, 4)])
def test_memory_is_bounded_by_the_limit(api, classes, big, limit, kept):
    session = Session(LocalHost(), classes, cache_limit=limit)
    for first in range(4):  # three entries a run
        ran(session, chain(api, first=first))
    assert big() == kept
    session.clear()
    assert big() == 0


def test_without_a_cache_an_output_goes_after_its_last_user(api, classes, big):
    classes["Show"].go = lambda self, value, **hidden: {"ui": {"alive": [big()]}}
    prompt = chain(api)
    assert Session(LocalHost(), classes, cache_limit=0).run(prompt).outputs["3"]["alive"] == [0]
    assert Session(LocalHost(), classes).run(prompt).outputs["3"]["alive"] == [1]


def test_a_prompt_that_cannot_use_an_output_frees_it_before_it_works(api, classes, big):
    session = Session(LocalHost(), classes)
    ran(session, chain(api))
    classes["Noise"].go = lambda self, **values: (big(), "")
    prompt = api(n1=("Noise", {"seed": 1, "mode": "soft", "scale": 1.0}), n2=("Show", {"value": ["1", 0]}))
    assert session.run(prompt).outputs["2"]["value"] == [0]


def test_a_negative_limit_is_refused(classes):
    with pytest.raises(ValueError, match="cache_limit -1"):
        Session(LocalHost(), classes, cache_limit=-1)


def test_expanded_nodes_are_found_again(session, api, classes):
    def go(self, value):
        return {"result": (["x", 0],), "expand": {"x": {"class_type": "Add", "inputs": {"a": ["1", 0], "b": 1}}}}

    classes["Noise"] = type("Twice", (classes["Number"],), {"go": go})
    prompt = api(n1=("Number", {"value": 1}), n2=("Noise", {"value": 1}), n3=("Show", {"value": ["2", 0]}))
    assert ran(session, prompt)[0] == ["1", "x", "2", "3"]
    prompt["2"]["inputs"]["value"] = 2  # expands again, into the same
    assert ran(session, prompt) == (["2", "3"], ["x"])


# --- what it tells ---------------------------------------------------------------------------------------------------


def test_events_come_in_order(session, api):
    heard = []
    session.run(chain(api), on_event=heard.append)
    assert [(event.kind, event.node) for event in heard] == [
        ("start", None),
        ("cached", None),
        ("executing", "1"),
        ("executing", "2"),
        ("executing", "3"),
        ("executed", "3"),
        ("done", None),
    ]
    heard.clear()
    session.run(chain(api), on_event=heard.append)
    assert [event.kind for event in heard] == ["start", "cached", "executed", "done"]
    assert heard[1].data == {"nodes": ["1", "2", "3"]} and heard[2].data["ui"]["value"] == [6]
    heard.clear()
    prompt = api(n1=("Fails", {"value": 1}), n3=("Show", {"value": ["1", 0]}))
    session.run(prompt, on_event=heard.append)
    assert [event.kind for event in heard][-2:] == ["error", "done"] and heard[-2].data["failure"].node_id == "1"


def test_progress_and_warnings_of_the_node_that_runs(api, classes):
    class Step:
        index, total, t, x_t, x0 = 0, 1, 0, None, None

    def go(self, value):
        from comfyui_unclip.nodes.host import current_host

        current_host().warn("mind the gap")
        return (current_host().drive((step for step in (Step,)), "Walk") or value,)

    classes["Number"].go = go
    heard = []
    Session(LocalHost(quiet=True), classes).run(chain(api), on_event=heard.append)
    progress = next(event for event in heard if event.kind == "progress")
    assert progress.node == "1" and progress.data == {"value": 1, "max": 1, "label": "Walk", "step": Step}
    assert [(event.node, event.data) for event in heard if event.kind == "warning"] == [
        ("1", {"messages": ["mind the gap"]})
    ]


@pytest.mark.parametrize("kind", ["start", "executing", "executed", "done"])
def test_what_a_listener_raises_is_no_nodes_failure(session, api, kind):
    """The reader of `unclip run --json` has left, say."""

    def listen(event):
        if event.kind == kind:
            raise BrokenPipeError("nobody reads")

    with pytest.raises(BrokenPipeError, match="nobody reads"):
        session.run(chain(api), on_event=listen)
    assert ran(session, chain(api, last=6))[0] == (["2", "3"] if kind in ("executed", "done") else ["1", "2", "3"])


def test_a_session_works_in_another_thread(session, api):
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(session.run(chain(api))))
    thread.start()
    thread.join()
    assert outcomes[0].outputs["3"]["value"] == [6]


# --- validation ------------------------------------------------------------------------------------------------------


def test_a_bad_output_does_not_stop_the_good_one(session, api):
    prompt = chain(api) | api(n4=("Number", {"value": 99}), n5=("Show", {"value": ["4", 0]}))
    validation = session.validate(prompt)
    assert validation.good_outputs == ["3"] and validation.error is None
    (error,) = validation.errors["4"]["errors"]
    assert validation.errors["4"] | {"errors": []} == {"errors": [], "dependent_outputs": ["5"], "class_type": "Number"}
    assert error["type"] == "value_bigger_than_max" and error["message"]
    assert error["details"] == "value: 99 is above the maximum 10; it takes 0 to 10"
    assert error["extra_info"] == {
        "input_name": "value",
        "input_config": ["INT", {"default": 1, "min": 0, "max": 10}],
        "received_value": 99,
    }
    outcome = session.run(validation.prompt, outputs=validation.good_outputs)
    assert outcome.executed == ["1", "2", "3"] and outcome.error is None


def test_outputs_can_be_chosen(session, api):
    prompt = chain(api) | api(n5=("Show", {"value": ["1", 0]}))
    assert session.validate(prompt, ["5"]).good_outputs == ["5"]
    assert ran(session, prompt, outputs=["5"])[0] == ["1", "5"]
    assert session.validate(prompt, []).error["type"] == "prompt_no_outputs"
    assert session.validate(prompt, ["1"]).error["type"] == "prompt_no_outputs"  # not an output node


def test_many_circles_are_quick_and_few_are_named(session, classes):
    prompt = {}
    for number in range(0, 4000, 2):
        prompt[str(number)] = {"class_type": "Add", "inputs": {"a": [str(number + 1), 0], "b": 1}}
        prompt[str(number + 1)] = {"class_type": "Add", "inputs": {"a": [str(number), 0], "b": 1}}
        prompt[f"s{number}"] = {"class_type": "Show", "inputs": {"value": [str(number), 0]}}
    validation = session.validate(prompt)
    assert validation.good_outputs == [] and len(validation.errors) == 3


def test_a_nodes_own_refusal_comes_once_for_each_input_it_names(session, api, classes):
    classes["Add"].VALIDATE_INPUTS = classmethod(lambda cls, a, b: "no such sum")
    validation = session.validate(chain(api))
    errors = validation.errors["2"]["errors"]
    assert [error["details"] for error in errors] == ["b: no such sum", "a: no such sum"]
    assert [str(problem) for problem in validation.problems(classes)] == ["node 2 (Add), b: no such sum"]


def test_links_come_to_the_nodes_own_check_as_none(session, api, classes):
    seen = {}
    classes["Add"].VALIDATE_INPUTS = classmethod(lambda cls, **values: seen.update(values) or True)
    session.validate(chain(api))
    assert seen == {"a": None, "b": 5}


def test_an_asynchronous_check_is_awaited(session, api, classes):
    import asyncio

    async def check(cls, b):
        await asyncio.sleep(0)
        return "too late" if b == 6 else True

    classes["Add"].VALIDATE_INPUTS = classmethod(check)
    assert session.validate(chain(api)).error is None
    assert session.validate(chain(api, last=6)).errors["2"]["errors"][0]["type"] == "custom_validation_failed"


def test_a_class_whose_declaration_fails_is_named(session, api, classes):
    def broken(cls):
        raise OSError("the folder is gone")

    classes["Number"].INPUT_TYPES = classmethod(broken)
    (problem,) = session.validate(chain(api)).problems(classes)
    assert str(problem) == "node 1 (Number): its INPUT_TYPES failed: the folder is gone"


@pytest.mark.parametrize("prompt", [None, [], "x", {"1": 5}, {"1": {"class_type": "Show"}}, {"1": {"inputs": {}}}, {}])
def test_no_prompt_at_all_is_an_error(session, prompt):
    assert session.validate(prompt).error["type"] in ("invalid_prompt", "prompt_no_outputs")
