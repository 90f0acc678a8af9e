"""results.jsonl, whatever lies in it: a line is a row as it was written, or a warning with its number."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfyui_unclip.workflows.document.graph import WorkflowError
from comfyui_unclip.workflows.rows.results import Results, RowResult, seconds_by_class

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = ("job", *RowResult.__dataclass_fields__)
LINES = st.fixed_dictionaries({"job": st.just("j"), "row": st.just(1)}, optional={name: ANY for name in NAMES[2:]})


@settings(max_examples=150, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(line=LINES | st.dictionaries(st.sampled_from(NAMES), ANY, max_size=4) | ANY)
def test_any_line_is_a_row_or_is_left_out(tmp_path, line):
    results = Results(tmp_path, "j")
    results.path.write_text(json.dumps(line) + "\n")
    for row, result in results.finished().items():
        assert type(row) is int and result.ok and result.outputs == []
        [text.encode("utf-8", "surrogatepass") for text in (*result.outputs, *result.executed)]
    assert all(0 <= seconds < 1e9 for seconds in seconds_by_class(results.path).values())
    try:
        results.check_resumable()
    except WorkflowError as error:
        assert str(results.path) in str(error)


ODD = (
    {"row": True},
    {"outputs": [5]},
    {"outputs": "x"},
    {"error": 5},
    {"texts": []},
    {"executed": [[]]},
    {"seconds": ""},
)


@pytest.mark.parametrize("values", ODD, ids=str)
def test_a_line_of_odd_types_is_named_and_its_row_runs_again(tmp_path, caplog, values):
    results = Results(tmp_path, "j")
    results.append(RowResult(1))
    with results.path.open("a") as file:
        file.write(json.dumps({"job": "j", "row": 2, **values}) + "\n")
    assert list(results.finished()) == [1]
    assert f"{results.path}, line 2 " in caplog.text


def test_names_that_no_file_can_have_are_not_there(tmp_path):
    results = Results(tmp_path, "j")
    for row, output in enumerate(("x" * 5000, "\ud800", "a/" * 3000), 1):
        results.append(RowResult(row, outputs=[output]))
    assert results.finished() == {}
