"""workflows/subject.json on the tiny stack and a LoRA of it: the word paints; without the file it says what to do."""

import json

import numpy as np
import pytest
from PIL import Image

from comfyui_unclip.unclip_core.checkpoints.lora_catalog import read_lora_info
from comfyui_unclip.workflows.cli import run


@pytest.fixture
def graph(repository):
    return repository / "workflows" / "subject.json"


def picture(graph, folder, *words):
    assert run(["run", str(graph), "-o", str(folder), "-q", "-s", "model=tiny", *words]) == 0
    (path,) = folder.glob("*.png")
    return np.asarray(Image.open(path), dtype=float)


def test_the_subject_is_painted_as_strongly_as_asked(graph, tiny_stack, tmp_path, capsys):
    known = ("-s", "model.dtype=fp32", "-s", "prompt=a red sks_snail in the night sky")
    whole, half, without = (
        picture(graph, tmp_path / strength, *known, "-s", f"subject.strength={strength}")
        for strength in ("1", "0.5", "0")
    )
    assert whole.shape == (1024, 1024, 3)
    assert abs(whole - without).mean() > abs(half - without).mean() > 0.5
    said = capsys.readouterr().err
    assert said.count("does not know") == 1 and "sks" in said  # at strength 0 the word is no word


def test_the_caption_that_comes_with_it_says_the_files_word(graph, tiny_models):
    nodes = {node["title"]: node for node in json.loads(graph.read_text(encoding="utf-8"))["nodes"]}
    file, strength = nodes["subject"]["widgets_values"]
    (word,) = read_lora_info(tiny_models / "loras" / file).words
    assert strength == 1.0 and word in nodes["prompt"]["widgets_values"][0].split()
    assert f"--word {word} " in nodes["Start here"]["widgets_values"][0]  # the command that makes it


def test_without_the_file_it_says_how_to_make_it(graph, tiny_models, tmp_path, monkeypatch, capsys):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "storybook").symlink_to(tiny_models / "storybook")
    monkeypatch.setenv("UNCLIP_MODELS", str(tmp_path / "models"))
    assert run(["run", str(graph), "-o", str(tmp_path / "out")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert 'node 3 "subject"' in line and "no file 'sks_snail.safetensors'; there are: none" in line
    assert f"Looked in {tmp_path / 'models' / 'loras'}" in line and "`unclip train subject`" in line
