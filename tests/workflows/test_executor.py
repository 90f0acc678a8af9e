import pytest
import torch

from comfyui_unclip.nodes.host import LocalHost, current_host
from comfyui_unclip.workflows.executor import NodeError, execute


def run(prompt, classes, **options):
    return execute(prompt, classes, LocalHost(), **options)


def test_each_node_runs_once_and_values_flow(api, classes):
    prompt = api(
        n1=("Number", {"value": 3}),
        n2=("Add", {"a": ["1", 0], "b": 4}),
        n3=("Add", {"a": ["2", 0], "b": ["1", 0]}),
        n4=("Show", {"value": ["3", 0]}),
        n5=("Show", {"value": ["1", 0]}),
        n6=("Number", {"value": 9}),
    )
    shown = run(prompt, classes)
    assert {node_id: ui["value"] for node_id, ui in shown.items()} == {"4": [10], "5": [3]}
    assert classes["Number"].runs == 1  # node 1 once for three users; node 6 never, nobody needs it


def test_links_to_undeclared_inputs_are_passed_and_undeclared_constants_dropped(api, classes):
    prompt = api(n1=("Number", {"value": 2}), n2=("Add", {"a": ["1", 0], "b": 1, "c": ["1", 0], "d": 50}))
    shown = run(prompt | api(n3=("Show", {"value": ["2", 0]})), classes)
    assert shown["3"]["value"] == [5]


def test_hidden_inputs_carry_id_prompt_and_workflow(api, classes):
    prompt = api(n1=("Number", {"value": 3}), n7=("Show", {"value": ["1", 0]}))
    workflow = {"workflow": {"nodes": []}}
    ui = run(prompt, classes, extra_pnginfo=workflow)["7"]
    assert (ui["me"], ui["prompt"], ui["extra"]) == (["7"], [prompt], [workflow])


def test_nodes_run_under_inference_mode_with_the_host_set(api, classes):
    seen = []

    def go(self, value):
        seen.append((torch.is_inference_mode_enabled(), current_host()))
        return (value,)

    classes["Number"].go = go
    host = LocalHost()
    execute(api(n1=("Number", {"value": 3}), n2=("Show", {"value": ["1", 0]})), classes, host)
    assert seen == [(True, host)]
    assert current_host() is not host and not torch.is_inference_mode_enabled()


def test_outputs_are_announced_as_they_come(api, classes):
    prompt = api(n1=("Number", {"value": 1}), n2=("Show", {"value": ["1", 0]}), n3=("Fails", {"value": 13}))
    prompt |= api(n4=("Show", {"value": ["3", 0]}))
    heard = []
    with pytest.raises(NodeError):
        run(prompt, classes, on_output=lambda node_id, ui: heard.append((node_id, ui["value"])))
    assert heard == [("2", [1])]


def test_a_failing_node_is_named_and_its_cause_kept(api, classes):
    prompt = api(n8=("Fails", {"value": 4}, "the culprit"), n9=("Show", {"value": ["8", 0]}))
    with pytest.raises(NodeError, match=r'node 8 "the culprit" \(Fails\): 4 is') as caught:
        run(prompt, classes)
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_interrupt_is_asked_for_before_each_node(api, classes):
    class Cancelled(Exception):
        pass

    class Host(LocalHost):
        left = 2

        def check_interrupt(self):
            self.left -= 1
            if self.left < 0:
                raise Cancelled

    prompt = api(n1=("Number", {"value": 1}), n2=("Add", {"a": ["1", 0], "b": 1}), n3=("Show", {"value": ["2", 0]}))
    with pytest.raises(Cancelled):
        execute(prompt, classes, Host())
    assert classes["Number"].runs == 1


def test_results_are_dropped_after_their_last_user(api, classes):
    import gc
    import weakref

    class Big:
        pass

    alive = []

    def make(self, value):
        big = Big()
        alive.append(weakref.ref(big))
        return (big,)

    def use(self, a, b):
        return (b,)

    def look(self, value, **hidden):
        gc.collect()
        return {"ui": {"alive": [alive[0]() is not None]}}

    classes["Number"].go, classes["Add"].go, classes["Show"].go = make, use, look
    prompt = api(n1=("Number", {"value": 1}), n2=("Add", {"a": ["1", 0], "b": 1}), n3=("Show", {"value": ["2", 0]}))
    assert run(prompt, classes)["3"]["alive"] == [False]


def test_a_node_that_expands_is_refused(api, classes):
    classes["Number"].go = lambda self, value: {"result": (1,), "expand": {}}
    with pytest.raises(NodeError, match="expands into a graph"):
        run(api(n1=("Number", {"value": 1}), n2=("Show", {"value": ["1", 0]})), classes)
