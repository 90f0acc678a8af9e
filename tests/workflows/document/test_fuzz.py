"""Whatever a workflow file holds, the outcome is a result or a list of problems, never a traceback.

Short and always the same by default; `UNCLIP_FUZZ=20000 pytest tests/workflows/document/test_fuzz.py` looks further.
"""

import copy
import importlib.metadata
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from comfyui_unclip.nodes.host import LocalHost, use_host
from comfyui_unclip.tests.workflows import editor_cases
from comfyui_unclip.workflows.checks.validation import validate
from comfyui_unclip.workflows.document.conversion import convert
from comfyui_unclip.workflows.document.graph import WorkflowError
from comfyui_unclip.workflows.document.reading import load_workflow
from comfyui_unclip.workflows.document.schema import node_classes
from comfyui_unclip.workflows.settings.writing import apply

HERE = Path(__file__).parents[1]
EXAMPLES = int(os.environ.get("UNCLIP_FUZZ", "250"))
PROFILE = settings(
    max_examples=EXAMPLES,
    derandomize="UNCLIP_FUZZ" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
CLASSES = {**node_classes(), **editor_cases.classes()}


def _templates():
    """Real graphs with subgraphs in them, small enough to mutate quickly."""
    for entry in importlib.metadata.files("comfyui-workflow-templates-media-image"):
        if entry.suffix == ".json":
            text = Path(entry.locate()).read_text(encoding="utf-8")
            if len(text) < 45_000 and '"definitions"' in text and '"nodes"' in text:
                yield text


OURS = [path.read_text(encoding="utf-8") for path in sorted((HERE.parents[1] / "workflows").glob("*.json"))]
TOYS = [json.dumps(graph) for graph in editor_cases.CASES.values()]
API = [json.dumps(convert(json.loads(text), CLASSES)[0]) for text in (*OURS, *TOYS[-6:])]
FILES = [json.loads(text) for text in (*OURS, *TOYS, *API, *list(_templates())[:8])]

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-30, 30),
    st.sampled_from(
        [2**70, -1, 1e308, float("nan"), float("inf"), -20, -10, "-10", "-20", 2, 4, "Reroute", "PrimitiveNode"]
    ),
    st.text(max_size=8),
    st.sampled_from(
        ["../../etc/passwd", "/dev/zero", "CON", "a\0b", "\x1b[2J", "x" * 5000, "__class__", editor_cases.SUB, "Noise"]
    ),
    st.sampled_from(
        [[], {}, [[]], [1], ["2", 0], ["3", 9], ["1", -1], [None, None], {"__value__": [1]}, {"name": "b"}]
    ),
    st.recursive(st.none() | st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=5),
)


@st.composite
def documents(draw):
    """A real document with some of its parts deleted, replaced, doubled or swapped."""
    document = copy.deepcopy(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(0, 5))):
        holder, key = _place(draw, document)
        if holder is None:
            break
        action = draw(st.sampled_from(["delete", "replace", "replace", "double", "take", "wrap"]))
        if action == "delete":
            del holder[key]
        elif action == "replace":
            holder[key] = copy.deepcopy(draw(ODD))
        elif action == "double" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif action == "wrap":
            holder[key] = [holder[key]]
        else:
            other, other_key = _place(draw, document)
            holder[key] = copy.deepcopy(other[other_key])
    return document


def _place(draw, document):
    """A holder and a key somewhere in the document, shallow places as likely as deep ones."""
    holder, key = None, None
    for _ in range(draw(st.integers(1, 7))):
        inner = document if holder is None else holder[key]
        if not isinstance(inner, dict | list) or not inner:
            break
        keys = sorted(inner) if isinstance(inner, dict) else range(len(inner))
        holder, key = inner, draw(st.sampled_from(keys))
    return holder, key


def outcome(file, content):
    """What becomes of a file: "fine", "problems" or "unreadable"; raises what none of these explains."""
    file.write_bytes(content)
    try:
        workflow = load_workflow(file)
    except WorkflowError as error:
        lines, result = error.problems, "unreadable"
    else:
        prompt, lines = convert(workflow.data, CLASSES) if workflow.is_ui else (workflow.data, [])
        lines = lines + validate(prompt, CLASSES).problems(CLASSES)
        result = "problems" if lines else "fine"
        changed = workflow.copy()
        lines = lines + apply(changed, [("seed", "3"), ("text", "a star"), ("4.steps", 2), ("value", 7)], CLASSES)[1]
        if changed.is_ui:
            convert(changed.data, CLASSES)
    for line in map(str, lines):
        assert line and line.isprintable() and len(line) < 2000
        line.encode()  # no half characters
    return result


def test_mutated_graphs_give_a_result_or_problems(tmp_path):
    outcomes = {"fine": 0, "problems": 0, "unreadable": 0}

    @PROFILE
    @given(documents())
    def run(document):
        outcomes[outcome(tmp_path / "graph.json", json.dumps(document).encode())] += 1

    run()
    assert min(outcomes.values()) >= 5, outcomes  # else the mutations are too tame, or too wild, to tell anything


def test_bytes_of_any_kind_give_a_result_or_problems(tmp_path):
    text = TOYS[-1].encode()
    png = (HERE.parent / "data" / "graph.png").read_bytes()
    exif = Image.Exif()
    exif[0x0110], exif[0x010F] = f"prompt:{API[-1]}", f"workflow:{TOYS[-1]}"
    Image.new("RGB", (4, 4)).save(tmp_path / "graph.webp", exif=exif)
    webp = (tmp_path / "graph.webp").read_bytes()

    @PROFILE
    @given(st.sampled_from([text, png, webp, b"", b"\x89PNG\r\n\x1a\n", webp[:12]]), st.data())
    @example(b"\xff\xfe{\x00", None)
    @example(b"[" * 200_000, None)
    @example(b'{"a":' * 50_000, None)
    @example(b'{"nodes": [], "x": "\\ud800"}', None)
    @example(b"1" * 5000, None)
    def run(content, data):
        content = bytearray(content)
        for _ in range(data.draw(st.integers(0, 4)) if data else 0):
            at = data.draw(st.integers(0, len(content)))
            content[at : at + data.draw(st.sampled_from([0, 1, 40]))] = data.draw(st.binary(max_size=12))
        outcome(tmp_path / "graph.json", bytes(content))

    run()


PATHS = [
    "../x",
    "../../etc/passwd",
    "/etc/passwd",
    "..\\..\\x",
    "a/../../x",
    "a\0b",
    "x" * 5000,
    "../x [output]",
    "/dev/zero",
]


@pytest.mark.parametrize("path", PATHS)
def test_paths_out_of_the_folders_are_listed_and_nothing_is_touched(path, tmp_path):
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": path}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": path}},
    }
    (tmp_path / "input").mkdir()
    with use_host(LocalHost(tmp_path / "output", tmp_path / "input")):
        found = validate(prompt, CLASSES).problems(CLASSES)
    assert {problem.input for problem in found} >= {"image"}
    if not path.startswith("x"):
        assert {problem.input for problem in found} == {"image", "filename_prefix"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["input"]
