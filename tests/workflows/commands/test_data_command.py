"""`unclip data`: what training would find in a source."""

import json

import numpy as np
import pytest
from PIL import Image

from comfyui_unclip.workflows.cli import run


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A working folder with three captioned pictures and a broken one."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, said in enumerate(("a red star", "a blue boat", "a red snail")):
        Image.new("RGB", (300, 200 + i), (80 * i, 0, 90)).save(folder / f"{i}.png")
        (folder / f"{i}.Txt").write_text(said)
    (folder / "broken.jpg").write_bytes(b"x")
    return folder


def test_the_report_says_what_is_kept_and_what_is_not(photos, tiny_stack, capsys):
    assert run(["data", "photos", "--clip", "tiny", "-o", "sheet.png"]) == 0
    shown = capsys.readouterr().out
    for said in (
        "photos: 3 rows kept, 1 skipped",
        "no picture that can be read: 1 (broken.jpg)",
        "captions: 3, 6 different words",
        "words that this CLIP does not know: 1 (snail 1)",
        "short side 200 to 202 px",
        "smaller than 256 px: 3 (the upsampler to 256 px does not train on them)",
        "wrote sheet.png",
    ):
        assert said in shown, shown
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 1000


def test_everything_as_json(photos, capsys):
    assert run(["data", "photos", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 3 and found["words"]["red"] == 2 and found["skipped"][0][0] == "broken.jpg"


def test_rendered_scenes_are_a_source_too(photos, capsys):
    assert run(["data", "storybook:", "--pictures", "8"]) == 0
    assert "storybook:: 8 rows kept, 0 skipped" in capsys.readouterr().out


def test_embeddings_are_reported_with_their_width_and_what_they_lack(photos, tiny_stack, capsys):
    np.save(photos / "img_emb_0.npy", np.random.default_rng(0).normal(size=(6, 40)).astype(np.float16))
    assert run(["data", "photos"]) == 0
    said = capsys.readouterr().out
    assert "6 rows kept" in said and "embeddings, 40 wide" in said and "without a caption: 6" in said
    assert run(["train", "prior", "--data", "photos", "--name", "mine", "--clip", "tiny"]) == 2
    assert "no row has a caption; put clip-retrieval's metadata_0.parquet or .jsonl" in capsys.readouterr().err


def test_a_place_without_pictures_is_one_line(photos, capsys):
    assert run(["data", "nowhere"]) == 2
    assert "error: --data nowhere: no pictures found: there is no such folder" in capsys.readouterr().err
    picture = photos / "0.png"
    assert run(["data", str(picture)]) == 2
    assert f"error: --data {picture}: one file, of which only a .tar shard can be read" in capsys.readouterr().err
    for output, said in (("sheet.txt", "end its name in .png"), ("no/sheet.png", "there is no folder no")):
        assert run(["data", "photos", "-o", output]) == 2
        said_all = capsys.readouterr()
        assert said in said_all.err and not said_all.out
