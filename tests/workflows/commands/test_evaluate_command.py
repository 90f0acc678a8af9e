"""`unclip evaluate storybook` from the command line, on the stack `tiny` at small counts."""

import dataclasses
import json

import click
import pytest

from comfyui_unclip.unclip_core.checkpoints.catalog import read_stack
from comfyui_unclip.unclip_core.evaluation import context as contexts
from comfyui_unclip.workflows.cli import run
from comfyui_unclip.workflows.commands import evaluate

SMALL = ["--count", "3", "--renders", "2", "--asked", "20", "--fitted-on", "200"]


@pytest.fixture
def desk(tmp_path, tiny_stack, monkeypatch):
    """A working folder, the stack `tiny`, and examiners trained for two steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("comfyui_unclip.unclip_core.pages.keep_pages", lambda: True)  # would outlive the test
    small = {"steps": 2, "batch": 8, "warmup": 1, "pictures": 64}
    full = contexts.FULL
    budget = contexts.Budget(dataclasses.replace(full.judge, **small), dataclasses.replace(full.reader, **small))
    monkeypatch.setattr(contexts, "FULL", budget)
    monkeypatch.setattr(contexts.Context.__init__, "__defaults__", (budget, contexts.Context.__init__.__defaults__[1]))
    settings = {"prior": {"steps": 2, "candidates": 1}, "decoder": {"steps": 2, "guidance_scale": 1.0}}
    monkeypatch.setattr(evaluate, "saved_settings", lambda graph: settings)
    return tmp_path


def test_parts_are_measured_written_and_kept(desk, capsys):
    command = ["evaluate", "storybook", "--stack", "tiny", *SMALL, "--only", "two", "--only", "words"]
    assert run(command) == 0
    shown = capsys.readouterr().out
    assert "two objects, kinds, colours and relation, by the fitter" in shown and "words on a card read right" in shown
    out = desk / "out" / "evaluate"
    assert {path.name for path in out.iterdir()} == {"report.md", "scores.json", "two.png", "word.png"}
    rows = json.loads((out / "scores.json").read_text())["rows"]
    assert [row["verdict"] for row in rows] == ["undecided"] * 3 or "missed" in [row["verdict"] for row in rows]
    made = set((desk / "runs" / "evaluate" / "made").iterdir())
    assert run([*command, "--against", "tiny"]) == 0
    again = capsys.readouterr().out
    assert set((desk / "runs" / "evaluate" / "made").iterdir()) == made  # the same stack: nothing new to sample
    assert "less those of the stack before | 0% (" in again and "The test split was not opened" in again


def test_openings_of_the_test_split_are_counted(desk, capsys):
    command = ["evaluate", "storybook", "--stack", "tiny", *SMALL, "--only", "lattice", "--split", "test"]
    assert run(command) == 0 and run(command) == 0
    assert "opened 1 time so far" in capsys.readouterr().out
    assert run([*command, "--seed", "5"]) == 0
    assert "opened 2 times so far, 2 with these weights" in capsys.readouterr().out


def test_cold_runs_are_processes_of_their_own_that_find_the_stack(desk, tiny_models, monkeypatch):
    folder, ticks = f"{tiny_models}/tiny/", []
    monkeypatch.setenv("UNCLIP_MODELS", "")  # known by its folder alone
    entry = read_stack(tiny_models / "tiny")
    (seconds,) = evaluate._cold_runs([(folder, entry)], 1, lambda *tick: ticks.append(tick))
    assert len(seconds) == 1 and seconds[0] > 0.1 and ticks == [("cold runs", 0, 1), ("cold runs", 1, 1)]
    with pytest.raises(click.ClickException, match=r"cold run of tiny: error: .*no model 'tiny'"):
        evaluate._cold_runs([(entry.name, entry)], 1, lambda *tick: None)


def test_what_cannot_be_measured_ends_with_one_line_before_any_work(desk, capsys, tmp_path):
    for wrong, told in (
        (["--only", "dreams"], "--only dreams: there is no such part; choose of one, chinese, two"),
        (["--stack", "nope"], "no model 'nope'"),
        (["--stack", f"{tmp_path}/"], "the folder holds no stack"),
        (["--against", "runs/none/"], "--against runs/none/: there is no such folder"),
        (["--split", "train"], "'train' is not one of"),
    ):
        assert run(["evaluate", "storybook", *SMALL, *(["--stack", "tiny"] if "--stack" not in wrong else []), *wrong])
        assert told in capsys.readouterr().err
    assert not (desk / "runs").exists()
