"""Storybook rows: the same whenever asked; crops, embeddings and moving batches."""

import dataclasses
import random

import numpy as np
import torch

from comfyui_unclip.unclip_core.storybook.captions import caption, matches
from comfyui_unclip.unclip_core.storybook.draw import render
from comfyui_unclip.unclip_core.training import embeddings
from comfyui_unclip.unclip_core.training.data import StorybookData, move, random_crop, to_model
from comfyui_unclip.unclip_core.training.embeddings import image_embeddings
from comfyui_unclip.unclip_core.types import model_to_image


def test_pictures_are_on_the_networks_scale(story):
    pictures = story.pictures([5, 0])
    assert pictures.shape == (2, 3, 64, 64) and pictures.min() >= -1 and pictures.max() <= 1
    back = ((pictures[0].movedim(0, -1) + 1) * 127.5).round().to(torch.uint8).numpy()
    assert np.array_equal(back, story.shard[5])
    assert to_model(np.array([[[[0, 255, 51]]]], np.uint8)).flatten().tolist() == [-1.0, 1.0, np.float32(-0.6)]


def test_captions_are_true_and_follow_the_generator(story):
    rows = list(range(64))
    texts = story.captions(rows, random.Random(1))
    assert texts == story.captions(rows, random.Random(1)) != story.captions(rows, random.Random(2))
    rng = random.Random(1)
    for row, text in zip(rows, texts, strict=True):
        own, stated = caption(story.scenes[row], rng)
        assert own == text and matches(stated, story.scenes[row])


def test_crops_are_windows_of_the_large_picture(story):
    crops, corners = story.crops([3, 4], random.Random(0), 256, 64)
    assert crops.shape == (2, 3, 64, 64) and corners.shape == (2, 2)
    assert torch.equal(crops, story.crops([3, 4], random.Random(0), 256, 64)[0])
    for row, crop, (left, top) in zip((3, 4), crops, corners.tolist(), strict=True):
        assert left % 4 == top % 4 == 0
        whole = render(story.scenes[row], 256, oversample=2).astype(int)
        pixels = ((crop.movedim(0, -1) + 1) * 127.5).round().numpy()
        assert np.abs(whole[top : top + 64, left : left + 64] - pixels).mean() < 1.0


def test_most_crops_touch_an_object(story):
    touched = 0
    for index in range(120):
        scene = dataclasses.replace(story.scenes[index % 64], word=None)
        things = tuple(dataclasses.replace(t, colour="red" if t.colour != "red" else "blue") for t in scene.things)
        first, second = (
            random_crop(s, random.Random(index), 1024, 64)[0]
            for s in (scene, dataclasses.replace(scene, things=things))
        )
        touched += not np.array_equal(first, second)
    assert touched > 0.45 * 120  # another colour shows in the same window


def test_embeddings_are_cached_for_this_clip_and_these_pictures(story, tiny_clip, tmp_path, monkeypatch):
    found = image_embeddings(tiny_clip, story, tmp_path, batch=24)
    assert found.shape == (64, 24)
    rows = model_to_image(story.pictures([0, 63]))
    assert torch.cosine_similarity(found[[0, 63]], tiny_clip.encode_image(rows).vector).min() > 0.999  # bf16
    with monkeypatch.context() as patch:
        patch.setattr(embeddings, "embed_rows", None)  # nothing is encoded again
        assert torch.equal(image_embeddings(tiny_clip, story, tmp_path), found)
    others = StorybookData(tmp_path / "others", 64, seed=2)
    assert not torch.equal(image_embeddings(tiny_clip, others, tmp_path), found)
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_a_batch_moves_with_all_that_is_in_it(tiny_clip):
    text = tiny_clip.encode_text(["a red star"])
    batch = {"x": torch.zeros(2), "pair": (torch.ones(1), [torch.ones(1)]), "text": text, "none": None, "name": "n"}
    moved = move(batch, torch.device("meta"))
    for tensor in (moved["x"], moved["pair"][0], moved["pair"][1][0], moved["text"].tokens, moved["text"].mask):
        assert tensor.device.type == "meta"
    assert moved["none"] is None and moved["name"] == "n" and moved["text"].captions == ("a red star",)
    assert batch["x"].device.type == "cpu"
