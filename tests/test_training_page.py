"""The path of docs/training.md, word for word: its blocks are taken from the page and run, with fewer steps."""

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
    """(language, text) of the section's blocks."""
    text = (repository / "docs" / "training.md").read_text(encoding="utf-8")
    section = text.split("## From a folder to a model")[1].split("\n## ")[0]
    return dict(re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL))


def test_from_a_folder_to_a_model(blocks, repository, tmp_path, monkeypatch, capsys):
    assert list(blocks) == ["python", "toml", "bash"]
    monkeypatch.setattr(task_decoder, "SHEET_STEPS", 2)
    monkeypatch.setattr("comfyui_unclip.unclip_core.pages.keep_pages", lambda: True)  # would outlive the test
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workflows").symlink_to(repository / "workflows")
    (tmp_path / "shapes.py").write_text(blocks["python"], encoding="utf-8")
    short, count = re.subn(r"(?m)^steps = \d+", "steps = 2", blocks["toml"])
    assert count == 4
    (tmp_path / "shapes.toml").write_text(short, encoding="utf-8")
    for line in blocks["bash"].replace("\\\n", " ").splitlines():
        command, *arguments = shlex.split(line)
        if command == "python":
            subprocess.run([sys.executable, *arguments], check=True)
        elif command == "export":
            monkeypatch.setenv(*arguments[0].split("="))
        else:
            assert command == "unclip"
            assert run([*arguments, *(SAMPLING if arguments[0] == "run" else [])]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "shapes/: 300 rows kept, 0 skipped" in said and "captions: 300, 13 different words" in said
    stages = {path.name for path in (tmp_path / "models" / "shapes").iterdir()}
    assert {
        f"{stage}.safetensors" for stage in ("clip", "prior", "decoder", "upsampler_256", "upsampler_1024")
    } <= stages
    made = sorted((tmp_path / "out").rglob("*.png"))
    assert len(made) == 3 and all(Image.open(path).getextrema() for path in made)
