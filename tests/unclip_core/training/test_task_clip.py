"""Training CLIP: which pictures share a batch, how they are moved, which tower learns."""

import dataclasses
import random

import torch

from comfyui_unclip.unclip_core.checkpoints.native import load_stage
from comfyui_unclip.unclip_core.training.loop import train
from comfyui_unclip.unclip_core.training.recipes import Recipe
from comfyui_unclip.unclip_core.training.task_clip import ClipTask, shifted

RECIPE = Recipe(steps=2, batch=4, lr=1e-3)


def test_siblings_put_pictures_that_only_details_tell_apart_into_a_batch(story_clip_config, story):
    task = ClipTask(story_clip_config, story, dataclasses.replace(RECIPE, siblings=3))
    rows = task.with_siblings([5, 9, 40, 2, 7, 11, 12, 1], random.Random(0))
    assert len(rows) == 8 and [rows[0], rows[3], rows[6]] == [5, 9, 40]
    for leader in (0, 3, 6):
        assert len({story.scenes[row].triples()[0] for row in rows[leader : leader + 3]}) == 1
    pictures, ids = task.batch([5, 9, 40, 2], random.Random(0), torch.Generator())
    assert pictures.shape == (4, 3, 64, 64) and ids.shape == (4, 32)
    plain = ClipTask(story_clip_config, story, RECIPE)
    assert plain.with_siblings([5, 9], random.Random(0)) == [5, 9]


def test_cousins_share_all_but_the_object(story_clip_config, story):
    task = ClipTask(story_clip_config, story, dataclasses.replace(RECIPE, siblings=16, cousins=1.0))
    row = max(range(len(story)), key=lambda row: len(story.alike(row, cousins=True)))
    triples = [story.scenes[each].triples()[0] for each in task.with_siblings([row] * 16, random.Random(0))]
    assert len({triple[1:] for triple in triples}) == 1
    assert len({triple[0] for triple in triples}) > 1


def test_shifts_move_pictures_and_mirror_their_edges():
    ramp = torch.arange(64.0).expand(1, 3, 64, 64).contiguous()
    assert shifted(ramp, 0, random.Random(0)) is ramp
    moved = shifted(ramp.repeat(200, 1, 1, 1), 3, random.Random(0))[:, 0, 0]
    assert set((moved[:, 30] - 30).tolist()) == {-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0}
    assert moved[moved[:, 30] == 27][0, :5].tolist() == [3.0, 2.0, 1.0, 0.0, 1.0]


def test_a_kept_text_tower_does_not_move(story_clip_config, story, tmp_path):
    recipe = Recipe(steps=2, batch=8, lr=1e-2, warmup=1, weight_decay=0.1, ema=0.0, train_text=False)
    task = ClipTask(story_clip_config, story, recipe)
    before = {name: value.clone() for name, value in task.build().state_dict().items()}
    list(train(task, recipe, tmp_path, len(story)))
    _, _, after = load_stage(tmp_path / "clip.safetensors")
    moved = {name for name, value in after.items() if not torch.equal(value, before[name].to(value.dtype))}
    assert moved and all(name.startswith("visual.") for name in moved)


def test_a_clip_learns_its_pairs(story_clip_config, story, tmp_path):
    recipe = Recipe(steps=40, batch=32, lr=3e-3, warmup=5, ema=0.9)
    task = ClipTask(story_clip_config, story, recipe)
    losses = [p.loss for p in train(task, recipe, tmp_path, len(story), log_every=1)]
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
