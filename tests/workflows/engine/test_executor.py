"""How nodes are called, beside what test_executor_references.py holds against a real ComfyUI: hidden inputs, failures,
interrupts, lazy and asynchronous nodes, expansions."""

import asyncio
import threading

import pytest
import torch

from comfyui_unclip.nodes.host import Interrupted, LocalHost, current_host
from comfyui_unclip.workflows.engine.session import Session


def outcome(prompt, classes, host=None, limit=None, **options):
    session = Session(host or LocalHost(), classes, cache_limit=limit)
    validation = session.validate(prompt)
    assert validation.error is None, validation.problems(classes)
    return session.run(validation.prompt, outputs=validation.good_outputs, **options)


def shown(prompt, classes, **options):
    """What the node Show was given, by its id."""
    ended = outcome(prompt, classes, **options)
    assert ended.error is None, ended.error
    return {node_id: ui["value"] for node_id, ui in ended.outputs.items()}


def node(name, go, inputs=None, returns=("INT",), **attributes):
    """A class of one method with these inputs ({name: (type, options)}), all required."""
    schema = classmethod(lambda cls: {"required": inputs or {}})
    return type(name, (), {"INPUT_TYPES": schema, "RETURN_TYPES": returns, "FUNCTION": "go", "go": go, **attributes})


def test_each_node_runs_once_and_values_flow(api, classes):
    prompt = api(
        n1=("Number", {"value": 3}),
        n2=("Add", {"a": ["1", 0], "b": 4}),
        n3=("Add", {"a": ["2", 0], "b": ["1", 0]}),
        n4=("Show", {"value": ["3", 0]}),
        n5=("Show", {"value": ["1", 0]}),
        n6=("Number", {"value": 9}),
    )
    assert shown(prompt, classes) == {"4": [10], "5": [3]}
    assert classes["Number"].runs == 1  # node 1 once for three users; node 6 never, nobody needs it


def test_hidden_inputs_carry_id_prompt_and_workflow(api, classes):
    prompt = api(n1=("Number", {"value": 3}), n7=("Show", {"value": ["1", 0]}))
    workflow = {"workflow": {"nodes": []}}
    ui = outcome(prompt, classes, extra_pnginfo=workflow).outputs["7"]
    assert (ui["me"], ui["prompt"], ui["extra"]) == (["7"], [prompt], [workflow])


def test_nodes_run_under_inference_mode_with_the_host_set(api, classes):
    seen = []

    def go(self, value):
        seen.append((torch.is_inference_mode_enabled(), current_host()))
        return (value,)

    classes["Number"].go = go
    host = LocalHost()
    outcome(api(n1=("Number", {"value": 3}), n2=("Show", {"value": ["1", 0]})), classes, host)
    assert seen == [(True, host)]
    assert current_host() is not host and not torch.is_inference_mode_enabled()


def test_a_failure_ends_the_run_and_keeps_what_was_done(api, classes):
    prompt = api(n1=("Number", {"value": 1}), n2=("Show", {"value": ["1", 0]}), n3=("Fails", {"value": 4}, "culprit"))
    prompt |= api(n4=("Show", {"value": ["3", 0]}))
    ended = outcome(prompt, classes)
    assert ended.outputs["2"]["value"] == [1] and "4" not in ended.outputs and ended.executed == ["1", "2"]
    error = ended.error
    assert str(error).startswith('node 3 "culprit" (Fails): 4 is') and isinstance(error.__cause__, ValueError)
    assert (error.node_id, error.class_type, error.inputs, error.executed) == ("3", "Fails", {"value": [4]}, ["1", "2"])


def test_a_node_that_leaves_the_program_or_its_task_has_failed(api, classes):
    def leaves(self, value):
        raise SystemExit(3)

    async def is_cancelled(self, value):
        raise asyncio.CancelledError("by itself")

    for go, said in ((leaves, "3"), (is_cancelled, "by itself")):
        classes["Number"].go = go
        ended = outcome(api(n1=("Number", {"value": 1}), n2=("Show", {"value": ["1", 0]})), classes)
        assert str(ended.error) == f"node 1 (Number): {said}"


@pytest.mark.parametrize("interrupt", [Interrupted, KeyboardInterrupt])
def test_an_interrupt_is_never_swallowed(api, classes, interrupt):
    class Host(LocalHost):
        left = 3

        def check_interrupt(self):
            self.left -= 1
            if self.left < 0:
                raise interrupt

    prompt = api(n1=("Number", {"value": 1}), n2=("Add", {"a": ["1", 0], "b": 1}), n3=("Show", {"value": ["2", 0]}))
    heard = []
    with pytest.raises(interrupt):
        outcome(prompt, classes, Host(), on_event=heard.append)
    assert classes["Number"].runs == 1
    assert [event.kind for event in heard] == ["start", "cached", "executing", "executing", "interrupted"]


def test_an_interrupt_inside_a_node_passes_the_nodes_own_handlers(api, classes):
    def go(self, value):
        try:
            raise Interrupted
        except Exception:
            return (0,)

    classes["Number"].go = go
    with pytest.raises(Interrupted):
        outcome(api(n1=("Number", {"value": 1}), n2=("Show", {"value": ["1", 0]})), classes)


def test_an_empty_list_is_named(api, classes):
    classes["Many"] = node("Many", lambda self: ([],), OUTPUT_IS_LIST=(True,))
    prompt = api(n1=("Many", {}), n2=("Add", {"a": ["1", 0], "b": 10}), n3=("Show", {"value": ["2", 0]}))
    assert str(outcome(prompt, classes).error) == "node 2 (Add): a is an empty list, so there is nothing to work on"


def lazy_classes(classes):
    """Pick gives `a` or `b` by `second`, and asks only for that."""

    def check_lazy_status(self, second, a=None, b=None):
        name, value = ("b", b) if second else ("a", a)
        return [name] if value is None else []

    socket = ("INT", {"lazy": True, "forceInput": True})
    inputs = {"second": ("BOOLEAN",), "a": socket, "b": socket}
    go = lambda self, second, a=None, b=None: (b if second else a,)  # noqa: E731
    classes["Pick"] = node("Pick", go, inputs, check_lazy_status=check_lazy_status)
    return classes


def test_asking_for_an_input_that_is_not_linked_is_named(api, classes):
    lazy_classes(classes)["Pick"].check_lazy_status = lambda self, **values: ["c"]
    prompt = api(
        n1=("Number", {"value": 1}),
        n3=("Pick", {"second": False, "a": ["1", 0], "b": ["1", 0]}),
        n4=("Show", {"value": ["3", 0]}),
    )
    assert str(outcome(prompt, classes).error).startswith("node 3 (Pick): asks for its input 'c', which is not linked")


def test_asynchronous_nodes_run_at_the_same_time(api, classes):
    met = []

    async def go(self, value):
        met.append(("in", value))
        await asyncio.sleep(0.02)
        met.append(("out", value))
        return (value,)

    classes["Number"].go = go
    prompt = api(
        n1=("Number", {"value": 1}),
        n2=("Number", {"value": 2}),
        n3=("Show", {"value": ["1", 0]}),
        n4=("Show", {"value": ["2", 0]}),
    )
    assert shown(prompt, classes) == {"3": [1], "4": [2]}
    assert [what for what, _ in met] == ["in", "in", "out", "out"]


def test_an_asynchronous_failure_is_the_nodes(api, classes):
    async def go(self, value):
        await asyncio.sleep(0)
        raise ValueError("too late")

    classes["Number"].go = go
    prompt = api(n1=("Number", {"value": 1}), n2=("Show", {"value": ["1", 0]}))
    assert str(outcome(prompt, classes).error) == "node 1 (Number): too late"


def test_an_interrupt_is_heard_while_an_asynchronous_node_waits(api, classes):
    host = LocalHost(quiet=True)
    host.cancel = threading.Event()

    async def go(self, value):
        asyncio.get_running_loop().call_later(0.05, host.cancel.set)
        await asyncio.sleep(3600)

    classes["Number"].go = go
    with pytest.raises(Interrupted):
        outcome(api(n1=("Number", {"value": 1}), n2=("Show", {"value": ["1", 0]})), classes, host)


class ExecutionBlocker:
    """As the editor has it; packs outside of the editor bring their own."""

    def __init__(self, message):
        self.message = message


def test_a_blocker_stops_its_own_list_item_and_tells_once(api, classes):
    def go(self, value):
        return (ExecutionBlocker("two is out") if value == 2 else value,)

    classes["Many"] = node("Many", lambda self: ([1, 2, 3],), OUTPUT_IS_LIST=(True,))
    classes["Number"].go = go
    prompt = api(
        n1=("Many", {}),
        n2=("Number", {"value": ["1", 0]}),
        n3=("Add", {"a": ["2", 0], "b": 1}),
        n4=("Show", {"value": ["3", 0]}),
    )
    heard = []
    assert shown(prompt, classes, on_event=heard.append) == {"4": [2, 4]}
    assert [(event.node, event.data) for event in heard if event.kind == "blocked"] == [
        ("3", {"message": "two is out"})
    ]


def expanding(classes, result=(["inner", 0],)):
    """Twice(value) becomes a graph of one Add."""

    def go(self, value):
        self.calls = getattr(self, "calls", 0) + 1
        return {
            "result": result,
            "expand": {"inner": {"class_type": "Add", "inputs": {"a": ["1", 0], "b": value}}},
        }

    classes["Twice"] = node("Twice", go, {"value": ("INT",)})
    return api_of_twice


def api_of_twice(api):
    return api(n1=("Number", {"value": 3}), n2=("Twice", {"value": ["1", 0]}), n3=("Show", {"value": ["2", 0]}))


@pytest.mark.parametrize("limit", [None, 0])
def test_a_node_may_expand_into_a_graph(api, classes, limit):
    ended = outcome(expanding(classes)(api), classes, limit=limit)
    assert ended.outputs["3"]["value"] == [6]
    assert ended.executed == ["1", "inner", "2", "3"]


def test_a_failure_inside_an_expansion_is_blamed_on_the_node_of_the_graph(api, classes):
    prompt = expanding(classes)(api)

    def go(self, a, b):
        raise ValueError("no sum")

    classes["Add"].go = go
    assert str(outcome(prompt, classes).error) == "node 2 (Twice): no sum"


def test_an_expansion_that_needs_itself_is_named(api, classes):
    prompt = expanding(classes)(api)
    classes["Twice"].go = lambda self, value: {
        "result": (["inner", 0],),
        "expand": {"inner": {"class_type": "Add", "inputs": {"a": ["2", 0], "b": value}}},
    }
    error = outcome(prompt, classes).error
    assert error.node_id == "2" and "runs in a circle" in str(error)


def test_an_expansion_into_the_unknown_is_named(api, classes):
    prompt = expanding(classes)(api)
    classes["Twice"].go = lambda self, value: {"result": (), "expand": {"x": {"class_type": "Nope", "inputs": {}}}}
    assert "unknown class 'Nope'" in str(outcome(prompt, classes).error)


def test_a_chain_of_ten_thousand_nodes(api, classes):
    prompt = api(n0=("Number", {"value": 0}))
    for number in range(1, 10_001):
        prompt[str(number)] = {"class_type": "Add", "inputs": {"a": [str(number - 1), 0], "b": 1}}
    prompt |= {"end": {"class_type": "Show", "inputs": {"value": ["10000", 0]}}}
    assert shown(prompt, classes, limit=0) == {"end": [10_000]}
