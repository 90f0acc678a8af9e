"""How rows are dealt to workers, and what becomes of them there. Ray is too large for CI: ray_stand_in/ray.py takes its
place, and tests/benchmarks/ray_rows.py shows the same with the real one."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from comfyui_unclip.workflows import load
from comfyui_unclip.workflows import run as run_rows
from comfyui_unclip.workflows.places.ray_cluster import RowShares, worker_plan


@pytest.fixture
def workers_files(monkeypatch, tmp_path):
    """Rows go to two processes here; the folder in which they make theirs."""
    folder = tmp_path / "workers"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.syspath_prepend(str(Path(__file__).with_name("ray_stand_in")))
    yield folder
    sys.modules.pop("ray", None)


def shade(path):
    return Image.open(path).getpixel((0, 0))[0]


def test_every_row_is_made_once_although_a_worker_is_killed_in_the_middle(paint, workers_files):
    import ray

    killed = []

    def kill_one(result):
        started = [actor for actor in ray._cluster.actors if actor.last_call == "run"]
        if not killed:
            killed.append(started[0]._process.pid)
            os.kill(killed[0], signal.SIGKILL)

    options = {"output": paint.out, "nodes": (paint.pack,), "ray": "local", "workers": 2}
    sweep, seconds = {"seed": range(12)}, {"decoder.seconds": 0.2}
    report = run_rows(load(paint.file), values=seconds, sweep=sweep, on_result=kill_one, **options)
    assert killed and not report.failed and any("its worker died" in warning for warning in report.warnings)
    results = paint.results()
    assert sorted(results) == list(range(1, 13)) and all(len(found) == 1 for found in results.values())
    for row, (found,) in results.items():
        (name,) = found["outputs"]
        assert name == f"x_row{row:05}_00001_.png" and shade(paint.out / name) == 16 + row - 1
    assert len(list(paint.out.glob("*.png"))) == 12


def test_an_answer_that_is_lost_on_its_way_is_made_again(paint, workers_files, monkeypatch):
    """Pictures stay with the machine that made them until they are asked for: it may be gone by then."""
    import ray

    get, lost = ray.get, []

    def lose(reference):
        answer = get(reference)
        if isinstance(answer, tuple) and len(lost) < 2:
            lost.append(answer[0].row)
            raise ray.exceptions.ObjectLostError("all copies are gone")
        return answer

    monkeypatch.setattr(ray, "get", lose)
    options = {"output": paint.out, "nodes": (paint.pack,), "ray": "local", "workers": 2}
    report = run_rows(load(paint.file), sweep={"seed": range(6)}, **options)
    assert len(lost) == 2 and not report.failed and len(report.warnings) == 2
    assert sorted(paint.results()) == [1, 2, 3, 4, 5, 6] and len(list(paint.out.glob("*.png"))) == 6


def test_an_answer_that_is_none_is_a_failed_row(paint, workers_files, monkeypatch, tmp_path):
    """From a worker of another version, say."""
    import ray

    get = ray.get
    broken = {
        1: lambda result, contents, warnings: None,
        2: lambda result, contents, warnings: (result, contents),
        3: lambda result, contents, warnings: (result, [], warnings),
        4: lambda result, contents, warnings: (replace(result, outputs=["../../out.png"]), contents, warnings),
        5: lambda result, contents, warnings: (replace(result, outputs=[".profile"]), contents, warnings),
        6: lambda result, contents, warnings: ({}, contents, warnings),
    }

    def spoil(reference):
        answer = get(reference)
        return broken.get(answer[0].row, lambda *answer: answer)(*answer) if isinstance(answer, tuple) else answer

    monkeypatch.setattr(ray, "get", spoil)
    options = {"output": paint.out, "nodes": (paint.pack,), "ray": "local", "workers": 1}
    report = run_rows(load(paint.file), sweep={"seed": range(7)}, **options)
    assert [row.row for row in report.failed] == [1, 2, 3, 4, 5, 6] and len(report.rows) == 7
    said = {row: found["error"] for row, (found,) in paint.results().items() if row < 7}
    assert len(said) == 6 and all("its worker's answer cannot be used" in error for error in said.values())
    assert not (tmp_path / "out.png").exists() and not (paint.out / ".profile").exists()


def test_a_row_that_kills_its_workers_is_given_up_and_the_others_are_made(paint, workers_files):
    table = paint.write("jobs.csv", "prompt\nfine\ndie\nbad\nalso fine\n")
    code, out, _ = paint("--table", table, "-q", "--ray", "local", "--workers", "2")
    assert code == 1 and len(out.splitlines()) == 2
    results = {row: found for row, (found,) in paint.results().items()}
    assert [row for row, found in sorted(results.items()) if found["error"] is None] == [1, 4]
    assert "its worker died 3 times" in results[2]["error"] and "cannot be painted" in results[3]["error"]
    assert [shade(paint.out / results[row]["outputs"][0]) for row in (1, 4)] == [64, 144]


def test_equal_rows_all_have_their_picture_and_workers_leave_no_files(paint, workers_files):
    """A worker makes the picture of equal rows once, and sends it for each."""
    most = []

    def count(result):
        most.append(len(list(workers_files.rglob("*.png"))))

    options = {"output": paint.out, "nodes": (paint.pack,), "ray": "local", "workers": 1}
    report = run_rows(load(paint.file), rows=[{"seed": row // 2} for row in range(140)], on_result=count, **options)
    assert not report.failed and len(report.rows) == 140
    for row in report.rows:
        assert [shade(paint.out / output) for output in row.outputs] == [16 + (row.row - 1) // 2]
    assert 0 < max(most) <= 65
    assert not list(workers_files.rglob("*"))


def test_a_cluster_that_is_not_there_is_said_before_anything(paint, workers_files):
    code, _, err = paint("--ray", "10.0.0.1:6379", "--sweep", "seed=1..2")
    assert code == 2 and "--ray 10.0.0.1:6379: no cluster answers there" in err


def test_a_worker_that_cannot_start_ends_the_run_with_the_reason(paint, workers_files, monkeypatch):
    """A pack that is not installed on the worker's machine, say."""
    monkeypatch.setenv("HERE", str(os.getpid()))
    lines = ("import os", "assert os.environ['HERE'] == str(os.getpid()), 'not there'", "NODE_CLASS_MAPPINGS = {}")
    pack = paint.write("only_here.py", "\n".join(lines))
    code, _, err = paint("--nodes", pack, "--ray", "local", "--sweep", "seed=1..2")
    assert code == 1 and "no worker starts" in err and "not there" in err


@pytest.mark.parametrize(
    ("resources", "wanted", "plan"),
    [
        ({"CPU": 16, "GPU": 2}, None, (2, {"num_gpus": 1, "num_cpus": 1})),
        ({"CPU": 16, "GPU": 4}, 2, (2, {"num_gpus": 1, "num_cpus": 1})),
        ({"CPU": 16}, None, (4, {"num_cpus": 4})),
        ({"CPU": 2}, None, (1, {"num_cpus": 2})),
        ({"CPU": 2}, 2, (2, {"num_cpus": 1})),
        ({"CPU": 2}, 9, (2, {"num_cpus": 1})),
        ({}, None, (1, {"num_cpus": 1})),
    ],
)
def test_a_worker_per_gpu_or_group_of_cores(resources, wanted, plan):
    assert worker_plan(resources, wanted) == plan


def test_neighbours_go_to_one_worker_and_nobody_idles():
    rows = RowShares([5, 6, 7, 8, 9, 10], 2)
    assert [rows.take("a"), rows.take("b"), rows.take("a"), rows.take("b")] == [5, 8, 6, 9]
    assert rows.take("a") == 7 and rows.take("a") == 10 and rows.take("a") is None and rows.take("b") is None
    assert len(rows) == 0


def test_a_lost_row_comes_next_and_a_new_worker_helps_the_slowest():
    rows = RowShares([1, 2, 3, 4], 2)
    assert [rows.take("a"), rows.take("b")] == [1, 3]
    rows.put_back(3)
    assert len(rows) == 3 and rows.take("c") == 3
    assert sorted([rows.take("c"), rows.take("a")]) == [2, 4]


def test_more_workers_than_rows():
    rows = RowShares([1], 8)
    assert rows.take("a") == 1 and rows.take("b") is None
    assert RowShares([], 3).take("a") is None
