"""`unclip train` and `unclip evaluate`: from a command line to a run folder, errors on one line."""

import json
import sys

import pytest
import torch

from comfyui_unclip.unclip_core.checkpoints.native import load_stage
from comfyui_unclip.unclip_core.evaluation import judge
from comfyui_unclip.unclip_core.training import start
from comfyui_unclip.workflows.cli import run
from comfyui_unclip.workflows.commands import evaluate


@pytest.fixture
def tiny(tiny_models, tmp_path, monkeypatch):
    """A working folder, and the preset `tiny`."""
    monkeypatch.setitem(start.PRESETS, "tiny", sys.modules["tiny_stack"].config())
    monkeypatch.setattr("comfyui_unclip.unclip_core.pages.keep_pages", lambda: True)  # would outlive the test
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*arguments):
    sizes = ("--preset", "tiny", "--pictures", "16", "--batch", "4", "--device", "cpu")
    return run(["train", *arguments, *sizes])


def test_a_stage_is_trained_and_taken_up_again(tiny, capsys):
    assert train("upsampler-256", "--steps", "2", "--lr", "1e-4", "--seed", "3", "--fp32") == 0
    assert "wrote runs/upsampler_256/upsampler_256.safetensors" in capsys.readouterr().out
    folder = tiny / "runs" / "upsampler_256"
    stage, config, _ = load_stage(folder / "upsampler_256.safetensors")
    assert stage == "upsampler_256" and config == start.PRESETS["tiny"].upsampler_256
    recipe = json.loads(torch.load(folder / "checkpoint.pt", weights_only=True)["recipe"])
    assert (recipe["steps"], recipe["batch"], recipe["lr"], recipe["seed"], recipe["pictures"]) == (2, 4, 1e-4, 3, 16)
    assert (tiny / "data" / "storybook" / "storybook-16-3.npy").exists()
    assert [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()] == [2]
    assert train("upsampler-256", "--steps", "3", "--lr", "1e-4", "--seed", "3", "--fp32") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "another recipe (steps 2 -> 3)" in error


def test_any_number_of_the_recipe_can_be_set(tiny, capsys):
    assert train("clip", "--steps", "1", "--set", "siblings=2", "--set", "lr=1", "--set", "decay=False") == 0
    recipe = json.loads(torch.load(tiny / "runs" / "clip" / "checkpoint.pt", weights_only=True)["recipe"])
    assert (recipe["siblings"], recipe["lr"], recipe["decay"]) == (2, 1.0, False)
    for wrong, said in (
        ("drop=1", "text_drop"),
        ("ema", "FIELD=VALUE"),
        ("decay=1", "decay is bool, as True; '1' is not"),
        ("steps=2.5", "steps is int"),
        ("timesteps=3", "timesteps is str, as 'logit_normal'"),
    ):
        assert train("clip", "--set", wrong) == 2
        assert said in capsys.readouterr().err


def test_wrong_weights_and_wrong_words_end_with_one_line_and_code_2(tiny, tiny_models, capsys):
    weights = str(tiny_models / "tiny" / "prior.safetensors")
    assert train("decoder", "--clip", str(tiny_models / "tiny" / "clip.safetensors"), "--init", weights) == 2
    assert "holds a prior, not a decoder" in capsys.readouterr().err
    assert run(["train", "painter"]) == 2
    assert run(["train", "decoder", "--preset", "nope"]) == 2
    assert "--preset 'nope' is unknown" in capsys.readouterr().err
    assert run(["train", "upsampler-256", "--data", "nothing-here"]) == 2
    assert "--data nothing-here: no pictures found" in capsys.readouterr().err
    assert not (tiny / "runs").exists()


def test_evaluate_uses_the_settings_of_the_saved_graph(tiny_stack, tmp_path, repository):
    settings = evaluate.saved_settings(repository / "workflows" / "text_to_image.json")
    assert settings["prior"] == {"steps": None, "guidance_scale": None, "candidates": 2, "sampler": None}
    assert settings["decoder"] == {"steps": None, "guidance_scale": None, "eta": 0.0, "sampler": None}
    graph = json.loads((repository / "workflows" / "text_to_image.json").read_text())
    for node in graph["nodes"]:
        if node["type"] == "UnCLIPDecoderSample":
            node["widgets_values"][:4] = [7, 2.5, 0.25, "ddim"]
    (tmp_path / "changed.json").write_text(json.dumps(graph))
    changed = evaluate.saved_settings(tmp_path / "changed.json")
    assert changed["decoder"] == {"steps": 7, "guidance_scale": 2.5, "eta": 0.25, "sampler": "ddim"}


def test_evaluate_measures_a_stack_and_writes_table_and_sheet(tiny, tiny_stack, capsys, monkeypatch):
    recipe = judge.Recipe(steps=2, batch=8, lr=1e-3, pictures=32, seed=7)
    monkeypatch.setattr(judge, "JUDGE_RECIPE", recipe)
    monkeypatch.setattr(judge.trained_judge, "__defaults__", (None, recipe))
    sizes = ("--samples", "2", "--pairs", "1", "--renders", "0")
    assert run(["evaluate", "storybook", "--stack", "tiny", *sizes]) == 0
    shown = capsys.readouterr().out
    assert "| object, 2 held-out captions |" in shown and "| CLIP retrieval, 256 held-out pairs |" in shown
    scores = json.loads((tiny / "out" / "evaluate" / "scores.json").read_text())
    assert scores["count"] == 2 and set(scores["samples"]) == {"object", "colour", "background", "all"}
    assert (tiny / "out" / "evaluate" / "samples.png").exists()
