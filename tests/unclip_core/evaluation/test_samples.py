"""Scores of samples of any stack: inputs are read or refused, numbers are those of known pictures."""

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from comfyui_unclip.unclip_core.evaluation.samples import embed_files, paint, read_captions, reference_paths, score


def directions(count, seed=0):
    return F.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


def nothing(what, done, total):
    pass


@pytest.fixture
def folder(tmp_path):
    for index in range(5):
        size = (40 + 30 * index, 64)
        Image.new("RGBA", size, (40 * index, 90, 120, 255)).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_samples_that_are_the_reference_are_perfect():
    images = directions(40)
    found = score(images, images, images)
    assert found.clip_score.value == pytest.approx(1.0) and found.frechet.value == pytest.approx(0.0, abs=1e-6)
    assert (found.precision, found.recall) == (1.0, 1.0) and found.caution() == ""
    other = score(images, -images, directions(40, 1) + 3)
    assert other.clip_score.value == pytest.approx(-1.0) and other.frechet.value > 1000 and other.precision == 0.0
    assert [name for name, _ in other.rows()][1] == "Fréchet distance x 1,000"
    assert "10 pictures are few for 8-d features" in score(images[:10], images[:10], images).caution()


def test_captions_and_pictures_are_read(folder, handles):
    captions = folder / "captions.txt"
    captions.write_text("﻿a red star\n\n a boat \na star\nthe sea\n", encoding="utf-8")
    assert read_captions(captions) == ["a red star", "a boat", "a star", "the sea"]
    paths = reference_paths(folder)
    assert [path.name for path in paths] == [f"{index}.png" for index in range(5)]
    found = embed_files(handles.clip, paths, nothing, batch=2)
    assert found.shape == (5, 24) and torch.allclose(found.norm(dim=1), torch.ones(5), atol=1e-5)
    plain = torch.tensor([80, 90, 120]).float().expand(1, 64, 64, 3) / 255
    assert torch.allclose(found[2], F.normalize(handles.clip.encode_image(plain).vector[0], dim=0), atol=1e-4)


def test_what_cannot_be_scored_is_one_sentence(folder, handles):
    few = folder / "few.txt"
    few.write_text("a star\n\n")
    with pytest.raises(ValueError, match=r"--captions .*few.txt: 1 captions, but scores need more than 3"):
        read_captions(few)
    with pytest.raises(ValueError, match=r"--reference .*: 0 pictures"):
        (folder / "empty").mkdir()
        reference_paths(folder / "empty")
    (folder / "5.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"--reference .*5.png: cannot be read as a picture"):
        embed_files(handles.clip, reference_paths(folder), nothing)


def test_pictures_do_not_depend_on_the_batch(handles):
    captions, ticks = ["a red star", "a blue boat", "a boat"], []
    whole = paint(handles, captions, 5, 3, False, lambda *tick: ticks.append(tick))
    parts = paint(handles, captions, 5, 2, False, nothing)
    assert whole[0].shape == (3, 64, 64, 3) and ticks == [("paint", 3, 3)]
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    assert torch.allclose(whole[1].norm(dim=1), torch.ones(3), atol=1e-5)
    assert paint(handles, captions[:1], 5, 1, True, nothing)[0].shape == (1, 256, 256, 3)


def test_scores_are_json():
    import dataclasses

    assert json.loads(json.dumps(dataclasses.asdict(score(directions(9), directions(9, 1), directions(9, 2)))))
