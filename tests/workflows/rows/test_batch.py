"""Many rows: order and reuse, results as they come, failures, resuming after anything, shared folders."""

import errno
import json
import os
import signal
import sys
import time

import pytest
from PIL import Image

from comfyui_unclip.unclip_core.disk import temporary_path
from comfyui_unclip.workflows.rows.batch import disk_failure
from comfyui_unclip.workflows.rows.results import Results, RowResult


def wait_for(path, lines):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if path.exists() and path.read_text(encoding="utf-8").count("\n") >= lines:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} never had {lines} lines")


def test_rows_are_saved_written_down_and_summed_up(paint):
    code, out, err = paint("-s", "prompt=abc", "--sweep", "seed=0..2")
    assert code == 0 and err.count("row") > 0
    lines = out.splitlines()
    assert lines[0] == "set prompt.text = 'abc'  (node 1)" and lines[-1] == "3 rows: 3 done"
    assert lines[1:-1] == [f"saved {paint.out}/x_row{row:05}_00001_.png" for row in (1, 2, 3)]
    for row, found in paint.results().items():
        (result,) = found
        assert result["inputs"] == {"seed": row - 1} and result["error"] is None and result["seconds"] >= 0
        (name,) = result["outputs"]
        assert Image.open(paint.out / name).getpixel((0, 0))[0] == 48 + row - 1
        assert json.loads(Image.open(paint.out / name).text["prompt"])["2"]["inputs"]["seed"] == row - 1


def test_work_is_ordered_so_that_what_rows_share_runs_once(paint):
    # Seed outside, caption inside: in the file's order every row would have a new caption.
    code, out, _ = paint("--sweep", "seed=0..2", "--sweep", "prompt=aa,bb", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    rows = [event for event in events if event["event"] == "row"]
    assert code == 0 and [row["row"] for row in rows] == [1, 3, 5, 2, 4, 6]
    assert sum(row["executed"].count("1") for row in rows) == 2
    assert sum(row["executed"].count("2") for row in rows) == 6
    assert {row: found[0]["inputs"] for row, found in paint.results().items()}[4] == {"seed": 1, "prompt": "bb"}


def test_a_failed_row_does_not_stop_the_others_and_the_exit_code_says_so(paint):
    table = paint.write("jobs.csv", "prompt,seed\nfine,1\nbad,2\nalso fine,3\n")
    code, out, err = paint("--table", table, "-q")
    assert code == 1 and len(out.splitlines()) == 2
    assert [line for line in err.splitlines() if line] == [
        'error: row 2: node 2 "decoder" (Paint): this caption cannot be painted'
    ]
    results = paint.results()
    assert results[2][0]["outputs"] == [] and "cannot be painted" in results[2][0]["error"] and results[3][0]["outputs"]


def test_resume_skips_what_is_finished_and_tries_again_what_failed_or_vanished(paint):
    words = paint.write("words.txt", "one\nbad\nthree\nfour\n")
    arguments = ("-s", f"prompt=@{words}", "-q")
    assert paint(*arguments)[0] == 1
    (paint.out / "x_row00003_00001_.png").unlink()
    code, out, _ = paint(*arguments, "--resume")
    assert code == 1 and out.splitlines() == [str(paint.out / "x_row00003_00001_.png")]
    assert {row: len(found) for row, found in paint.results().items()} == {1: 1, 2: 2, 3: 2, 4: 1}


def test_resume_refuses_another_job(paint):
    assert paint("--sweep", "seed=0..1", "-q")[0] == 0
    for change in (("--sweep", "seed=0..2"), ("--sweep", "seed=0..1", "-s", "prompt=other")):
        code, out, err = paint(*change, "--resume")
        assert code == 2 and "is of another job" in err and out == ""
    assert paint("--sweep", "seed=0..1", "--resume")[1].splitlines()[-1] == "2 rows: 0 done, 2 finished before"


def test_a_torn_last_line_costs_its_row_alone(paint, caplog):
    paint("--sweep", "seed=0..2", "-q")
    path = paint.out / "results.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    code, out, _ = paint("--sweep", "seed=0..2", "-q", "--resume")
    assert code == 0 and out.splitlines() == [str(paint.out / "x_row00003_00002_.png")]
    assert "line 3 is torn" in caplog.text
    assert sorted(paint.results()) == [1, 2, 3] and path.read_bytes().startswith(whole[:-20] + b"\n{")


def test_killed_at_any_moment_and_resumed_every_row_is_done_once(paint):
    arguments = ("--sweep", "seed=0..7", "-s", "seconds=0.05", "-q")
    for lines in (1, 4):
        process = paint.start(*arguments, "--resume")
        wait_for(paint.out / "results.jsonl", lines)
        process.kill()
        process.wait()
    assert paint(*arguments, "--resume")[0] == 0
    results = paint.results()
    assert sorted(results) == list(range(1, 9)) and all(len(found) == 1 for found in results.values())
    for row, found in results.items():
        assert Image.open(paint.out / found[0]["outputs"][0]).getpixel((0, 0))[0] == 16 + row - 1


def test_two_processes_share_a_folder(paint):
    both = [paint.start("--sweep", f"seed={first}..{first + 9}", "-q") for first in (0, 100)]
    for process in both:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
    lines = [json.loads(line) for line in (paint.out / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 20 and len({line["job"] for line in lines}) == 2
    names = [name for line in lines for name in line["outputs"]]
    assert len(set(names)) == 20 == len(list(paint.out.glob("*.png")))
    for line in lines:
        assert Image.open(paint.out / line["outputs"][0]).getpixel((0, 0))[0] == 16 + line["inputs"]["seed"]


def test_the_same_job_is_not_done_twice_at_once(paint):
    arguments = ("--sweep", "seed=0..9", "-s", "seconds=0.1", "-q")
    process = paint.start(*arguments)
    wait_for(paint.out / "results.jsonl", 1)
    for again in ((), ("--resume",)):
        code, out, err = paint(*arguments, *again)
        assert (code, out) == (2, "") and f"process {process.pid} on " in err and "is doing these rows in" in err
    assert paint("--sweep", "seed=20..21", "-q")[0] == 0  # another job in the same folder
    process.kill()
    process.wait()
    assert paint(*arguments, "--resume")[0] == 0  # the lock died with its process
    lines = [json.loads(line) for line in (paint.out / "results.jsonl").read_text().splitlines()]
    assert sorted(line["inputs"]["seed"] for line in lines) == [*range(10), 20, 21]
    assert not list(paint.out.glob(".job-*"))


def test_a_job_killed_before_its_first_line_is_resumed_beside_another_jobs_lines(paint):
    assert paint("--sweep", "seed=0..1", "-q")[0] == 0
    arguments = ("--sweep", "seed=5..6", "-s", "seconds=30", "-q")
    process = paint.start(*arguments)
    end = time.monotonic() + 60
    while not list(paint.out.glob(".job-*")) and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.wait()
    job = next(paint.out.glob(".job-*")).name[5:-5]
    assert paint("--sweep", "seed=7..8", "-q", "--resume")[0] == 2  # this one was never begun
    code, out, err = paint(*arguments, "--resume", "--dry-run", "--json")
    assert (code, json.loads(out)["job"], json.loads(out)["finished"]) == (0, job, 0), err


def test_what_a_killed_run_left_half_written_goes_with_the_next(paint):
    process = paint.start("--sweep", "seed=0..1", "-s", "seconds=30", "-q")
    end = time.monotonic() + 60
    while not list(paint.out.glob(".job-*")) and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.wait()
    half = paint.out / temporary_path(paint.out, ".png").name.replace(f"-{os.getpid()}-", f"-{process.pid}-")
    half.write_bytes(b"half a picture")
    paint.start("-s", "seed=1", "-q").wait()  # a process of its own: each looks through a folder once
    assert not half.exists() and (paint.out / "x_00001_.png").is_file()


LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (900, resource.RLIM_INFINITY))"


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limits")
@pytest.mark.parametrize(
    ("sides", "lost", "what"),
    [("4 4 600 4", 3, "it is not done"), ("4 4 4 4 4 4", None, "its pictures are saved, but not its line")],
    ids=["picture", "results.jsonl"],
)
def test_a_full_disk_loses_the_row_at_hand_and_says_which(paint, sides, lost, what):
    rows = "".join(f"{side},{'a' * number}\n" for number, side in enumerate(sides.split(), 1))
    table = paint.write("jobs.csv", f"side,prompt\n{rows}")
    process = paint.start("--table", table, "-q", before=LIMIT)
    out, err = process.communicate(timeout=100)
    last = err.splitlines()[-1]
    assert process.returncode == 1 and what in last and "--resume" in last and "Traceback" not in err
    named = int(last.split()[2])
    assert named == (lost or len(out.splitlines())) and named < len(sides.split())
    assert not list(paint.out.glob(".*"))
    assert paint("--table", table, "-q", "--resume")[0] == 0
    results = paint.results()
    assert sorted(results) == list(range(1, len(sides.split()) + 1))
    assert all([line["error"] for line in found].count(None) == 1 for found in results.values())


def test_a_folder_that_vanished_loses_the_row_at_hand(paint, tmp_path):
    """A file takes the folder's place in the middle."""
    process = paint.start("--sweep", "seed=0..9", "-s", "seconds=0.1", "-q")
    wait_for(paint.out / "results.jsonl", 2)
    os.rename(paint.out, tmp_path / "kept")
    paint.out.write_text("in the way")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1 and "is lost" in err and str(paint.out) in err and "Traceback" not in err
    assert (tmp_path / "kept" / "results.jsonl").read_text().count("\n") >= 2


def test_a_failure_where_a_linked_folder_leads_is_the_folders(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    for path, is_its in ((tmp_path / "disk" / "x.png", True), (tmp_path / "disk2" / "x.png", False)):
        failed = RuntimeError("node 3")
        failed.__cause__ = FileNotFoundError(errno.ENOENT, "gone", str(path))
        assert (disk_failure(failed, tmp_path / "out") is not None) == is_its


def test_ctrl_c_ends_the_run_and_keeps_what_is_done(paint):
    process = paint.start("--sweep", "seed=0..99", "-s", "seconds=0.05", "-q")
    wait_for(paint.out / "results.jsonl", 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err
    assert 2 <= len(paint.results()) < 99


def test_json_is_a_line_per_event(paint):
    code, out, err = paint("--sweep", "seed=0..1", "--grid", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and err == ""
    kinds = [event["event"] for event in events]
    assert kinds[0] == "begin" and kinds[-2:] == ["file", "end"] and kinds.count("row") == 2
    assert events[0]["rows"] == 2 and events[-1]["done"] == 2 and all("time" in event for event in events)
    saved = [event["outputs"] for event in events if event["event"] == "executed" and event["outputs"]]
    assert saved == [[str(paint.out / f"x_row0000{row}_00001_.png")] for row in (1, 2)]


def test_json_says_problems_too(paint):
    code, out, _ = paint("--sweep", "seed=0,5000", "-s", "nope=1", "--json")
    problems = [json.loads(line) for line in out.splitlines()]
    assert code == 2 and {problem["event"] for problem in problems} == {"problem"}
    assert [problem["kind"] for problem in problems] == ["invalid_override", "value_bigger_than_max"]


def test_wrong_cells_and_columns_are_named_before_any_work(paint):
    table = paint.write("jobs.csv", "seed,colour,scale\n1,red,0.5\nx,red,7\n3,red,0.5\n")
    code, out, err = paint("--table", table)
    assert code == 2 and out == "" and not paint.out.exists()
    errors = err.splitlines()
    assert len(errors) == 3
    assert "--table, column colour: nothing in this graph is called 'colour'" in errors[0]
    assert "--table, row 2, seed: 'x' is not a whole number" in errors[1]
    assert 'row 2: node 2 "decoder" (Paint), scale: 7.0 is above the maximum 2.0' in errors[2]


def test_a_fraction_for_a_whole_number_is_refused_rather_than_cut(paint):
    table = paint.write("jobs.json", '[{"seed": 2.0}, {"seed": 2.5}]')
    code, _, err = paint("--table", table)
    assert code == 2 and err.splitlines() == [
        "error: --table, row 2, seed: 2.5 is not a whole number; seed takes 0 to 1000"
    ]


def test_options_that_need_rows_or_exclude_each_other(paint):
    for options, said in (
        (["--resume"], "--resume needs rows"),
        (["--grid"], "--grid needs rows"),
        (["--cache-size", "much"], "'much' is no size"),
        (["--ray", "--server", "http://127.0.0.1:1"], "no ComfyUI answers there"),
    ):
        code, _, err = paint(*options)
        assert code == 2 and said in err, err


def test_dry_run_counts_and_estimates_without_running(paint):
    arguments = ("--sweep", "seed=0..3", "--sweep", "prompt=a,b")
    code, out, _ = paint(*arguments, "--dry-run")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0 and not paint.out.exists() and lines[-1] == "nothing was run"
    assert "Caption 2 x (6 saved by reuse)" in lines and "Paint 8 x" in lines and "time: unknown" in out
    paint(*arguments, "-q")
    (paint.out / "x_row00005_00001_.png").unlink()
    _, out, _ = paint(*arguments, "--dry-run", "--resume", "--json")
    (plan,) = map(json.loads, out.splitlines())
    assert (plan["rows"], plan["finished"]) == (8, 7) and plan["nodes"] == {"Caption": 1, "Paint": 1, "SaveImage": 1}
    assert 0 <= plan["seconds"] < 5 and plan["unmeasured"] == []


def test_dry_run_imports_no_torch(paint):
    check = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))"
    process = paint.start("--sweep", "seed=0..3", "--dry-run", before=check)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and out.splitlines()[-1] == "False", err


def test_partial_runs_the_outputs_that_can_be_made(paint):
    bad = {"class_type": "Paint", "inputs": {"caption": ["9", 0], "seed": 0, "scale": 1, "seconds": 0, "side": 4}}
    graph = paint.graph | {
        "4": bad,
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "y"}},
    }
    paint.file.write_text(json.dumps(graph))
    assert paint("-q")[0] == 2
    code, out, err = paint("--partial")
    assert code == 0 and f"saved {paint.out / 'x_00001_.png'}" in out and "warning: not run: node 4" in err


def test_a_result_line_that_the_disk_takes_in_parts_is_whole(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    results = Results(tmp_path, "job")
    results.append(RowResult(1, {"prompt": "夜空"}))
    assert results.finished()[1].inputs == {"prompt": "夜空"}
