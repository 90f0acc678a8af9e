"""Whatever is wrong with a file, it ends in a list of problems, never in a traceback of ours."""

import copy
import json
import random

import pytest

from comfyui_unclip.workflows.commands.run import to_prompt
from comfyui_unclip.workflows.graph import WorkflowError, load_workflow
from comfyui_unclip.workflows.overrides import apply
from comfyui_unclip.workflows.schema import node_classes
from comfyui_unclip.workflows.ui_to_api import convert

ODD = (None, True, -1, 2**70, 1.5, float("nan"), "", "x", [], {}, [1], ["2", 0], ["3", 9], [None, None], {"a": 1}, "9")


def places(value, path=()):
    """The path of every value inside a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def mangle(document, path, random_):
    """Delete the value at `path`, or put something odd there."""
    document = copy.deepcopy(document)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    if random_.random() < 0.2:
        del holder[path[-1]]
    else:
        holder[path[-1]] = copy.deepcopy(random_.choice(ODD))
    return document


@pytest.mark.parametrize("form", ["ui", "api"])
def test_mangled_files_give_problems_not_tracebacks(form, repository, tiny_stack, save):
    classes = node_classes()
    document = json.loads((repository / "workflows" / "text_to_image.json").read_text(encoding="utf-8"))
    document = document if form == "ui" else convert(document, classes)[0]
    random_ = random.Random(1)
    spots = list(places(document))
    outcomes = {"fine": 0, "problems": 0, "unreadable": 0}
    for path in random_.choices(spots, k=120):
        file = save(mangle(document, path, random_))
        try:
            workflow = load_workflow(file)
            problems = apply(workflow, ["seed=3", "prompt=a star", "4.steps=2"], classes)[1]
            problems += to_prompt(workflow, classes)[1]
            assert all(str(problem) and "\n" not in str(problem) for problem in problems)
            outcomes["problems" if problems else "fine"] += 1
        except WorkflowError:
            outcomes["unreadable"] += 1
    assert min(outcomes.values()) >= 1, outcomes
