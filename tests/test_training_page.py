"""The paths of docs/training.md and training-lora.md, word for word: their blocks are run as they stand, with fewer
steps."""

import re
import shlex
import subprocess
import sys

import pytest
from PIL import Image

from comfyui_unclip.unclip_core.training import task_decoder
from comfyui_unclip.workflows.cli import run

SAMPLING = ["-s", "steps=2"]  # the fewer steps of a run; of the trainings the file is changed


@pytest.fixture
def blocks(repository):
    """blocks(heading) -> {language: text} of a section's blocks."""

    def under(heading, page="training.md"):
        text = (repository / "docs" / page).read_text(encoding="utf-8")
        section = text.split(f"## {heading}")[1].split("\n## ")[0]
        return dict(re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL))

    return under


@pytest.fixture
def shell(tmp_path, repository, monkeypatch, capsys):
    """shell(block, added) runs a bash block's lines in a folder of the test's own; added: more words for a command."""
    monkeypatch.setattr("comfyui_unclip.unclip_core.pages.keep_pages", lambda: True)  # would outlive the test
    monkeypatch.chdir(tmp_path)
    for name in ("workflows", "tests"):
        (tmp_path / name).symlink_to(repository / name)

    def run_all(block, added):
        for line in block.replace("\\\n", " ").splitlines():
            command, *arguments = shlex.split(line, comments=True)
            if command == "python":
                subprocess.run([sys.executable, *arguments], check=True)
            elif command == "export":
                monkeypatch.setenv(*arguments[0].split("="))
            else:
                assert command == "unclip"
                assert run([*arguments, *added.get(arguments[0], [])]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run_all


def test_from_a_folder_to_a_model(blocks, shell, tmp_path, monkeypatch):
    found = blocks("From a folder to a model")
    assert list(found) == ["python", "toml", "bash"]
    monkeypatch.setattr(task_decoder, "SHEET_STEPS", 2)
    (tmp_path / "shapes.py").write_text(found["python"], encoding="utf-8")
    short, count = re.subn(r"(?m)^steps = \d+", "steps = 2", found["toml"])
    assert count == 4
    (tmp_path / "shapes.toml").write_text(short, encoding="utf-8")
    said = shell(found["bash"], {"run": SAMPLING})
    assert "shapes/: 300 rows kept, 0 skipped" in said and "captions: 300, 13 different words" in said
    stages = {path.name for path in (tmp_path / "models" / "shapes").iterdir()}
    assert {
        f"{stage}.safetensors" for stage in ("clip", "prior", "decoder", "upsampler_256", "upsampler_1024")
    } <= stages
    made = sorted((tmp_path / "out").rglob("*.png"))
    assert len(made) == 3 and all(Image.open(path).getextrema() for path in made)


def test_a_thing_of_yours(blocks, shell, tmp_path, monkeypatch):
    monkeypatch.setattr(task_decoder, "SHEET_STEPS", 2)
    short = ["--steps", "2", "--batch", "2", "--class-pictures", "2", "--dtype", "fp32"]
    said = shell(
        blocks("A thing of yours: subjects", "training-lora.md")["bash"],
        {"train": short, "run": ["-s", "decoder.steps=2"]},
    )
    assert "Apply LoRA lists it as sks_snail.safetensors, from models/loras; say sks_snail in the caption" in said
    assert len(list((tmp_path / "snails").glob("*.png"))) == len(list((tmp_path / "snails").glob("*.txt"))) == 20
    (sheet,) = (tmp_path / "out").glob("grid*.png")
    assert len(list((tmp_path / "out").glob("subject*.png"))) == 6 and Image.open(sheet).getextrema()
