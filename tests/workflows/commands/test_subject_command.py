"""`unclip train subject`: from a folder of pictures to a file that Apply LoRA lists."""

import json
import shutil

import pytest
from PIL import Image

from comfyui_unclip.workflows.cli import run

ARGUMENTS = ["--word", "sks_cup", "--class", "star", "--model", "tiny", "--device", "cpu", "--dtype", "fp32"]


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.effect_noise((64, 64), 60 + number).convert("RGB").save(folder / f"{number}.png")
    return folder


@pytest.fixture
def models(tiny_models, tmp_path, monkeypatch):
    """A model folder of the test's own, with the stack `tiny`; the working folder is the test's too."""
    shutil.copytree(tiny_models / "tiny", tmp_path / "models" / "tiny")
    monkeypatch.setenv("UNCLIP_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


def graph(caption):
    return {
        "1": {"class_type": "UnCLIPLoader", "inputs": {"model_name": "tiny", "dtype": "fp32"}},
        "2": {
            "class_type": "UnCLIPApplyLoRA",
            "inputs": {"lora_name": "sks_cup.safetensors", "strength": 1.0, "clip": ["1", 0]},
        },
        "3": {"class_type": "UnCLIPTextEncode", "inputs": {"clip": ["2", 0], "text": caption, "one_per_line": False}},
        "4": {"class_type": "UnCLIPTextAsEmbedding", "inputs": {"text": ["3", 0]}},
        "5": {"class_type": "UnCLIPSaveEmbedding", "inputs": {"embed": ["4", 0], "filename_prefix": "x"}},
    }


def test_a_graph_uses_the_word_that_was_learned(pictures, models, tmp_path, capsys):
    (tmp_path / "graph.json").write_text(json.dumps(graph("a red sks_cup")))
    assert run(["run", str(tmp_path / "graph.json")]) == 2
    assert "no file 'sks_cup.safetensors'; there are: none" in capsys.readouterr().err

    steps = ["--steps", "2", "--batch", "2", "--rank", "2", "--class-pictures", "2"]
    assert run(["train", "subject", "--pictures", str(pictures), *ARGUMENTS, *steps]) == 0
    told = capsys.readouterr().out
    assert f"Apply LoRA lists it as sks_cup.safetensors, from {models / 'loras'}; say sks_cup in the caption" in told
    made = tmp_path / "runs" / "sks_cup" / "sks_cup.safetensors"
    assert made.read_bytes() == (models / "loras" / "sks_cup.safetensors").read_bytes()
    assert [path.name for path in (models / "loras").iterdir()] == ["sks_cup.safetensors"]
    config = json.loads((made.parent / "config.json").read_text())
    assert config["word"] == "sks_cup" and config["lora"]["layers"] == "all" and config["recipe"]["batch"] == 2

    assert run(["run", str(tmp_path / "graph.json")]) == 0
    assert "does not know" not in capsys.readouterr().err  # the node's warning of unknown words


def test_what_is_missing_is_said(pictures, models, capsys):
    assert run(["train", "subject", "--pictures", str(pictures), "--word", "sks_cup"]) == 2
    assert "Missing option '--class'" in capsys.readouterr().err
    (models / "tiny" / "prior.safetensors").unlink()
    assert run(["train", "subject", "--pictures", str(pictures), *ARGUMENTS]) == 2
    assert "--model tiny has no prior; a subject needs clip, prior and decoder" in capsys.readouterr().err
    assert run(["train", "subject", "--help"]) == 0
    assert "--class-pictures" in capsys.readouterr().out
