"""`from comfyui_unclip.workflows import load, run`."""

import subprocess
import sys

import pytest

from comfyui_unclip.workflows import load, run
from comfyui_unclip.workflows.document.graph import WorkflowError
from comfyui_unclip.workflows.engine.outcome import NodeFailure


@pytest.fixture
def places(paint):
    """The options that every call here needs."""
    return {"output": paint.out, "nodes": (paint.pack,)}


def test_one_run_returns_its_file(paint, places):
    report = run(load(paint.file), {"prompt": "abc", "seed": 2}, **places)
    assert report.files == [paint.out / "x_00001_.png"] and report.files[0].is_file() and not report.failed


def test_sweeps_and_tables_return_rows_in_their_order(paint, places):
    heard = []
    rows = [{"prompt": "b"}, {"prompt": "bad"}, {"prompt": "b"}]
    report = run(paint.file, rows=rows, sweep={"seed": range(2)}, grid=True, on_result=heard.append, **places)
    assert [row.row for row in report.rows] == [1, 2, 3, 4, 5, 6] and len(heard) == 6
    assert [row.row for row in report.failed] == [3, 4] and report.grid.is_file()
    assert report.rows[5].inputs == {"prompt": "b", "seed": 1}
    again = run(paint.file, rows=rows, sweep={"seed": range(2)}, resume=True, **places)
    assert [row.row for row in again.rows] == [1, 2, 3, 4, 5, 6] and len(
        list(paint.out.glob("x_*.png"))
    ) == 2  # equal rows share a file


def test_what_nodes_warn_of_is_an_event_of_each_row_and_one_line_of_the_report(paint, places):
    heard = []
    options = {"sweep": {"seed": range(3)}, "on_event": lambda row, event: heard.append((row, event.kind, event.node))}
    report = run(paint.file, {"prompt": "odd"}, **options, **places)
    assert report.warnings == ["odd is an unknown word"]
    assert [entry for entry in heard if entry[1] == "warning"] == [(row, "warning", "2") for row in (1, 2, 3)]


def test_a_session_goes_on_where_the_last_run_ended(paint, places):
    first = run(paint.file, {"prompt": "abc"}, **places)
    second = run(paint.file, {"prompt": "abc", "seed": 5}, session=first.session, **places)
    assert first.rows[0].executed == ["1", "2", "3"] and second.rows[0].executed == ["2", "3"]


def test_what_is_wrong_is_raised(paint, places):
    with pytest.raises(WorkflowError, match="nothing in this graph is called 'nope'"):
        run(paint.file, {"nope": 1}, **places)
    with pytest.raises(WorkflowError, match="grid needs rows"):
        run(paint.file, grid=True, **places)
    with pytest.raises(NodeFailure, match="this caption cannot"):
        run(paint.file, {"prompt": "bad"}, **places)


def test_the_names_are_found_late():
    program = "import sys, comfyui_unclip.workflows as w; assert 'click' not in sys.modules; w.load; w.run; w.nothing"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "has no attribute 'nothing'" in done.stderr
