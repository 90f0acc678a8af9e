"""Our executor does what a real ComfyUI did with the same graphs (see tests/tools/executor_references.py)."""

import json
from pathlib import Path

import pytest

from comfyui_unclip.nodes.host import LocalHost
from comfyui_unclip.tests.workflows.executor_cases import CASES
from comfyui_unclip.workflows.engine.node_packs import known_classes
from comfyui_unclip.workflows.engine.session import Session

TESTS = Path(__file__).parents[2]
REFERENCES = json.loads((TESTS / "data" / "executor_references.json").read_text(encoding="utf-8"))["cases"]

# Where ours is meant to differ, and may: name -> (what, our value).
OURS = {
    # Which of two equal nodes runs is a matter of order, which must not matter.
    "equal nodes": ("executed", ["1", "3", "4"]),
    # The editor only says in the prompt's error which node it is; its page then marks none.
    "an unknown class nobody needs": (
        "node_errors",
        {"5": {"errors": [["invalid_prompt", ""]], "dependent_outputs": [], "class_type": "Nope"}},
    ),
    # The editor's check ends in Python's recursion limit, and loses the node on the way.
    "a circle": (
        "node_errors",
        {
            "2": {
                "errors": [["exception_during_inner_validation", "first"]],
                "dependent_outputs": ["3"],
                "class_type": "UnclipTestTotal",
            }
        },
    ),
}


def outcome(session, prompt):
    """The same things that the references hold."""
    validation = session.validate(prompt)
    said = {
        "error": validation.error and validation.error["type"],
        "good_outputs": sorted(validation.good_outputs),
        "node_errors": {
            node_id: {
                "errors": sorted([e["type"], e["extra_info"].get("input_name", "")] for e in entry["errors"]),
                "dependent_outputs": sorted(entry["dependent_outputs"]),
                "class_type": entry["class_type"],
            }
            for node_id, entry in validation.errors.items()
        },
    }
    if validation.error is not None:
        return said
    events = []
    ended = session.run(validation.prompt, outputs=validation.good_outputs, on_event=events.append)
    (cached,) = [event.data["nodes"] for event in events if event.kind == "cached"]
    failed = [[ended.error.node_id, type(ended.error.__cause__).__name__]] if ended.error else []
    return said | {
        "executed": sorted(ended.executed),
        "cached": sorted(cached),
        "ui": dict(sorted(ended.outputs.items())),
        "failed": failed,
    }


@pytest.fixture(scope="module")
def classes():
    return known_classes([TESTS / "data" / "test_pack"])


def test_every_case_has_a_reference():
    assert list(CASES) == list(REFERENCES)


@pytest.mark.parametrize("name", list(CASES))
def test_a_case_ends_as_in_the_editor(classes, name):
    session = Session(LocalHost(quiet=True), classes)
    for prompt, reference in zip(CASES[name], REFERENCES[name], strict=True):
        what, ours = OURS.get(name, (None, None))
        assert outcome(session, prompt) == (reference | {what: ours} if what else reference)
