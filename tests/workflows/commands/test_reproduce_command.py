"""`unclip reproduce` and `unclip evaluate samples` from the command line."""

import dataclasses
import json

import pytest
from PIL import Image

from comfyui_unclip.unclip_core.evaluation import context as contexts
from comfyui_unclip.unclip_core.evaluation import reproduction
from comfyui_unclip.unclip_core.evaluation.experiments import EXPERIMENTS
from comfyui_unclip.workflows.cli import run


@pytest.fixture
def desk(tmp_path, tiny_stack, monkeypatch):
    """A working folder, the stack `tiny`, examiners trained for two steps and one small experiment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("comfyui_unclip.unclip_core.pages.keep_pages", lambda: True)  # would outlive the test
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    small = {"steps": 2, "batch": 8, "warmup": 1, "pictures": 64}
    full = contexts.FULL
    judge, reader, sibling = (
        dataclasses.replace(recipe, **small) for recipe in (full.judge, full.reader, full.siblings.recipe)
    )
    raised = dataclasses.replace(full.siblings, recipe=sibling, round=1, captions=4, steps=2)
    budget = contexts.Budget(judge, reader, raised)
    monkeypatch.setattr(contexts, "QUICK", budget)
    spelling = EXPERIMENTS["spelling"]
    settings = dataclasses.replace(spelling.quick, scenes=3, steps=2)
    monkeypatch.setitem(reproduction.EXPERIMENTS, "spelling", dataclasses.replace(spelling, quick=settings))
    return tmp_path


def test_a_report_is_written_and_what_is_kept_is_not_computed_again(desk, capsys):
    command = ["reproduce", "--stack", "tiny", "--quick", "--only", "spelling"]
    assert run(command) == 0
    assert "wrote runs/reproduce/report.md" in capsys.readouterr().out
    folder = desk / "runs" / "reproduce"
    page, details = ((folder / name).read_text(encoding="utf-8") for name in ("report.md", "report/details.md"))
    assert "[Limits: spelling](report/details.md#limits-spelling)" in page and "Quick run" in page
    assert "## Limits: spelling" in details and "| renders |" in details and "training: reader" in details
    assert (folder / "report" / "spelling.png").is_file()
    assert run([*command, "-o", "docs/again.md"]) == 0
    shown = capsys.readouterr()
    assert "spelling: kept from before" in shown.out + shown.err
    again = (desk / "docs" / "again.md").read_text(encoding="utf-8")
    assert again == page.replace("(report/", "(again/") and (desk / "docs" / "again" / "spelling.png").is_file()


def test_experiments_are_listed(desk, capsys):
    assert run(["reproduce", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(EXPERIMENTS) and "§3.1" in lines[2]


def test_a_plan_names_the_cost_of_each_part_and_runs_nothing(desk, capsys):
    assert run(["reproduce", "--stack", "tiny", "--quick", "--only", "spelling", "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("spelling ") and " minutes " in lines[0] and " decoder" in lines[0]
    assert lines[-1].startswith("counted: decoder, one picture through the decoder once; prior, one embedding")
    assert lines[1].startswith("all ") and [line.split(":")[0].strip() for line in lines[2:-1]] == ["judge", "reader"]
    assert not (desk / "runs").exists()


def test_wrong_names_end_with_one_line_before_any_work(desk, capsys):
    assert run(["reproduce", "--only", "dreams"]) == 2
    assert capsys.readouterr().err.startswith("error: reproduce: experiment 'dreams' is unknown; choose of judges")
    for wrong in (["--full", "pca"], ["--quick", "--only", "pca", "--full", "spelling"]):
        assert run(["reproduce", *wrong]) == 2
        assert "for --quick, and experiments that --only does not leave out" in capsys.readouterr().err
    for wrong in (["--seeds", "0"], ["--sibling-minutes", "0"]):
        assert run(["reproduce", *wrong]) == 2 and wrong[0] in capsys.readouterr().err
    (desk / "a.md").mkdir()
    (desk / "a file").write_text("")
    for wrong in ("report", "a.md"):
        assert run(["reproduce", "--stack", "tiny", "-o", wrong]) == 2
        assert f"-o {wrong}: give a file's name that ends in .md" in capsys.readouterr().err
    for wrong in (["--run", "a file"], ["-o", "a file/report.md", "--run", "."]):
        assert run(["reproduce", "--stack", "tiny", *wrong])
        assert "is a file, and would have to be a folder: 'a file'" in capsys.readouterr().err
    assert run(["reproduce", "--stack", "nope"]) == 2
    assert "no model 'nope'" in capsys.readouterr().err
    assert not (desk / "runs").exists()


def test_a_stack_without_a_prior_is_refused_by_name(desk, tiny_models, monkeypatch, capsys):
    folder = desk / "models" / "bare"
    folder.mkdir(parents=True)
    for stage in ("clip", "decoder"):
        (folder / f"{stage}.safetensors").write_bytes((tiny_models / "tiny" / f"{stage}.safetensors").read_bytes())
    monkeypatch.setenv("UNCLIP_MODELS", str(desk / "models"))
    assert run(["reproduce", "--stack", "bare"]) == 2
    assert "model 'bare' has no prior; the experiments need CLIP, prior and decoder" in capsys.readouterr().err


def samples_command(desk, *more):
    return ["evaluate", "samples", "--model", "tiny", "--captions", "captions.txt", "--reference", "real", *more]


def test_samples_of_a_stack_are_scored(desk, capsys):
    (desk / "captions.txt").write_text("a red star\na blue boat\na star on the sea\na red boat\na boat\n")
    (desk / "real").mkdir()
    for index in range(5):
        Image.new("RGB", (70, 64), (50 * index, 200 - 30 * index, 128)).save(desk / "real" / f"{index}.png")
    assert run(samples_command(desk, "--limit", "4", "--batch", "2")) == 0
    shown = capsys.readouterr()
    assert "CLIP score (cosine to the caption): " in shown.out and "precision, 3 neighbours: " in shown.out
    assert "4 pictures are few for 24-d features" in shown.err
    scores = json.loads((desk / "out" / "samples" / "scores.json").read_text())
    assert scores["captions"] == 4 and scores["references"] == 5 and -1 <= scores["clip_score"]["value"] <= 1
    assert (desk / "out" / "samples" / "samples.png").is_file()


def test_too_few_captions_or_pictures_are_refused_before_any_work(desk, capsys):
    (desk / "captions.txt").write_text("a red star\n")
    (desk / "real").mkdir()
    assert run(samples_command(desk)) == 2
    assert "--captions captions.txt: 1 captions, but scores need more than 3" in capsys.readouterr().err
    (desk / "captions.txt").write_text("a\n" * 5)
    assert run(samples_command(desk)) == 2
    assert "--reference real: 0 pictures" in capsys.readouterr().err
    assert not (desk / "out").exists()
