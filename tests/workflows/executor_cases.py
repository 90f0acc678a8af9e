"""Graphs of tests/data/test_pack, run in order in one session. `tests/tools/executor_references.py` lets a real ComfyUI
run them and keeps what it did; test_executor_references.py holds our executor against that."""

NONE = object()


def graph(**nodes):
    """graph(n1=("Class", {inputs})) -> a prompt; links as "1:0"."""
    prompt = {}
    for name, (class_type, inputs) in nodes.items():
        linked = {key: _link(value) for key, value in inputs.items()}
        known = class_type in ("LoadImage", "SaveImage", "Nope")
        prompt[name[1:]] = {"class_type": class_type if known else f"UnclipTest{class_type}", "inputs": linked}
    return prompt


def _link(value):
    if isinstance(value, str) and value.startswith("->"):
        origin, slot = value[2:].split(":")
        return [origin, int(slot)]
    return value


LABEL = {"text": "a", "number": 2, "scale": 1.5, "on": True, "kind": "soft"}


def label(**changes):
    """A Label with some inputs changed or left out, and a Report of its text."""
    inputs = {name: value for name, value in (LABEL | changes).items() if value is not NONE}
    return graph(n1=("Label", inputs), n2=("Report", {"value": "->1:0"}))


def counted(tag, after=None):
    """A Counted after another, and a Report."""
    inputs = {"tag": tag} | ({"after": "->1:0"} if after is not None else {})
    first = {"n1": ("Counted", {"tag": after})} if after is not None else {}
    return graph(**first, n2=("Counted", inputs), n3=("Report", {"value": "->2:0"}))


def listed(**inner):
    """ListSource of three -> `inner` (n2) -> Report."""
    return graph(n1=("ListSource", {"count": 3}), **inner, n9=("Report", {"value": "->2:0"}))


def switch(choose):
    """Two Counted behind a lazy switch."""
    return graph(
        n1=("Counted", {"tag": "a"}),
        n2=("Counted", {"tag": "b"}),
        n3=("LazySwitch", {"choose": choose, "yes": "->1:0", "no": "->2:0"}),
        n4=("Report", {"value": "->3:0"}),
    )


GOOD = graph(n7=("ListSource", {"count": 1}), n8=("Report", {"value": "->7:1"}))

CASES = {
    "every widget": [label()],
    "coercion": [label(text=5, number=2.9, scale="1", on="false")],
    "an undeclared constant": [label(nothing=3)],
    "below the minimum": [label(number=-6)],
    "above the maximum": [label(number=6, scale=2.5)],
    "not a number": [label(number="many", scale=None)],
    "not in the list": [label(kind="loud")],
    "missing": [label(text=NONE, kind=NONE)],
    "a wrapped list": [label(text={"__value__": ["1", 0]})],
    "a list that is no link": [label(text=[1, 2, 3])],
    "a mistyped link": [label(more="->7:0") | GOOD],
    "a good output beside a bad one": [label(number=9) | GOOD],
    "two bad outputs of one node": [label(number=9) | graph(n3=("Report", {"value": "->1:1"}))],
    "an unknown class nobody needs": [label() | graph(n5=("Nope", {}))],
    "no output": [graph(n1=("ListSource", {"count": 1}))],
    "an empty prompt": [{}],
    "its own check": [graph(n1=("Checked", {"number": 3, "other": 1}), n2=("Report", {"value": "->1:0"}))],
    "its own check instead of the range": [
        graph(n1=("Checked", {"number": 40, "other": 1}), n2=("Report", {"value": "->1:0"}))
    ],
    "its own check and another range": [
        graph(n1=("Checked", {"number": 41, "other": 11}), n2=("Report", {"value": "->1:0"}))
    ],
    "a link past its own check": [
        graph(
            n1=("ListSource", {"count": 3}),
            n2=("Checked", {"number": "->1:1", "other": 1}),
            n3=("Report", {"value": "->2:0"}),
        )
    ],
    "links declared and not": [
        graph(
            n1=("ListSource", {"count": 2}),
            n2=("Total", {"first": "->1:1", "second": "->1:1", "fifth": "->1:1", "constant": 100}),
            n3=("Report", {"value": "->2:0"}),
        )
    ],
    "hidden inputs": [graph(n5=("Hidden", {}), n6=("Report", {"value": "->5:0"}))],
    "a list is mapped": [listed(n2=("FailsOn", {"number": "->1:0", "bad": 99}))],
    "lists of unequal length": [listed(n2=("Total", {"first": "->1:0", "b": "->1:1"}))],
    "whole lists": [listed(n2=("WholeLists", {"numbers": "->1:0", "name": "n"}))],
    "a failure in a list": [listed(n2=("FailsOn", {"number": "->1:0", "bad": 2}))],
    "a blocked item": [
        listed(n2=("Blocked", {"number": "->1:0", "stop": 1})),
        listed(n3=("Blocked", {"number": "->1:0", "stop": 0}), n2=("Total", {"first": "->3:0"})),
    ],
    "all blocked": [
        graph(
            n1=("ListSource", {"count": 1}),
            n2=("Blocked", {"number": "->1:0", "stop": 0}),
            n3=("Report", {"value": "->2:0"}),
        )
    ],
    "a lazy input": [switch(True), switch(False), switch(True)],
    "a second run": [label(), label(), label(text="b"), label()],
    "is changed": [counted("x"), counted("x"), counted("y"), counted("always"), counted("always")],
    "what is after a change": [counted("x", "a"), counted("x", "b"), counted("x", "always"), counted("x", "always")],
    "an instance keeps its count": [counted("x"), counted("y"), GOOD, counted("x")],
    "equal nodes": [
        graph(
            n1=("Counted", {"tag": "same"}),
            n2=("Counted", {"tag": "same"}),
            n3=("Total", {"first": "->1:0", "b": "->2:0"}),
            n4=("Report", {"value": "->3:0"}),
        )
    ],
    "a hidden id keeps equal nodes apart": [
        graph(
            n1=("Hidden", {}), n2=("Report", {"value": "->1:0"}), n3=("Hidden", {}), n4=("Report", {"value": "->3:0"})
        )
    ],
    "a failure and its repair": [
        graph(
            n1=("Counted", {"tag": "a"}),
            n2=("FailsOn", {"number": "->1:0", "bad": 1}),
            n3=("Report", {"value": "->2:0"}),
        ),
        graph(
            n1=("Counted", {"tag": "a"}),
            n2=("FailsOn", {"number": "->1:0", "bad": 2}),
            n3=("Report", {"value": "->2:0"}),
        ),
    ],
    "an output's failure after another's work": [
        GOOD | graph(n1=("FailsOn", {"number": 13, "bad": 13}), n2=("Report", {"value": "->1:0"}))
    ],
    "a circle": [
        GOOD
        | graph(n1=("Total", {"first": "->2:0"}), n2=("Total", {"first": "->1:0"}), n3=("Report", {"value": "->2:0"}))
    ],
}
