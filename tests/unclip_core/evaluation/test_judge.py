"""The judge: what it is taught, and that it can be taught."""

import dataclasses
import random

import numpy as np
import pytest
import torch

from comfyui_unclip.unclip_core.evaluation import judge as judging
from comfyui_unclip.unclip_core.evaluation.judge import (
    HEADS,
    IGNORED,
    JUDGE_RECIPE,
    Judge,
    JudgeTask,
    classes_of,
    half_erased,
    trained_judge,
    two_halves,
    verdicts,
    zoom,
)
from comfyui_unclip.unclip_core.storybook.draw import COLOUR_RGB, render
from comfyui_unclip.unclip_core.storybook.scenes import BACKGROUNDS, COLOURS, OBJECTS, held_out
from comfyui_unclip.unclip_core.storybook.shards import make_scenes
from comfyui_unclip.unclip_core.training.loop import LoopOptions, train

NONE = {name: len(classes) for name, classes in HEADS.items()}


def model_pixels(scene):
    return torch.from_numpy(render(scene, 64).copy()).movedim(-1, 0) / 127.5 - 1


def object_mask(scene, threshold=30):
    bare = dataclasses.replace(scene, things=())
    return np.abs(render(scene, 64).astype(int) - render(bare, 64)).sum(2) > threshold


def test_the_judge_is_taught_one_object_pictures_without_words_and_no_held_out_triple(renders):
    task = JudgeTask(renders)
    assert 0 < len(task) < len(renders)
    for row in task.rows:
        scene = renders.scenes[row]
        assert len(scene.things) == 1 and scene.word is None and not held_out() & set(scene.triples())


def test_batches_have_labels_of_their_pictures(renders, monkeypatch):
    task = JudgeTask(renders)
    rows = list(range(32))
    monkeypatch.setattr(judging, "SPOILT_SHARE", 0.0)
    batch = task.batch(rows, random.Random(0), torch.Generator().manual_seed(0))
    assert batch["pictures"].shape == (32, 3, 64, 64)
    for index, row in enumerate(rows):
        scene = renders.scenes[task.rows[row]]
        labels = {name: int(values[index]) for name, values in batch["labels"].items()}
        assert labels == classes_of(scene)
        assert OBJECTS[labels["object"]] == scene.things[0].kind
        assert COLOURS[labels["colour"]] == scene.things[0].colour
        assert BACKGROUNDS[labels["background"]] == scene.background


def test_spoilt_rows_are_none_of_these(renders, monkeypatch):
    task = JudgeTask(renders)
    monkeypatch.setattr(judging, "SPOILT_SHARE", 1.0)
    kinds = set()
    for seed in range(4):
        batch = task.batch(list(range(32)), random.Random(seed), torch.Generator().manual_seed(seed))
        for index in range(32):
            labels = {name: int(values[index]) for name, values in batch["labels"].items()}
            truth = classes_of(renders.scenes[task.rows[index]])
            if labels == NONE:
                kinds.add("none")
            elif labels == {"object": NONE["object"], "colour": IGNORED, "background": truth["background"]}:
                kinds.add("erased")  # half an object is no object, but its background is sound
            else:
                assert labels == truth  # blended with a picture of the same things: nothing to tell apart
                kinds.add("same")
    assert {"none", "erased"} <= kinds
    again = task.batch(list(range(32)), random.Random(3), torch.Generator().manual_seed(3))
    assert torch.equal(again["pictures"], batch["pictures"])


def test_half_erased_loses_a_good_part_of_the_object_and_nothing_else():
    rng = random.Random(0)
    for scene in make_scenes(20, 6, kind="one"):
        whole, mask = model_pixels(scene), object_mask(scene)
        for _ in range(3):
            changed = ((half_erased(scene, rng) - whole).abs().sum(0) > 0.1).numpy()
            assert not (changed & ~object_mask(scene, 0)).any()
            assert 0.3 < (changed & mask).sum() / mask.sum() < 0.7


def test_zoom_keeps_the_object_whole():
    rng = random.Random(0)
    for scene in make_scenes(20, 7, kind="one"):
        share = object_mask(scene).mean()
        for _ in range(3):
            state = rng.getstate()
            seen = zoom(scene, rng)
            after = rng.getstate()
            rng.setstate(state)
            bare = render_window_like(scene, rng)
            rng.setstate(after)
            visible = ((seen - bare).abs().sum(0) > 0.25).float().mean().item()
            assert seen.shape == (3, 64, 64) and visible > 0.85 * share


def render_window_like(scene, rng):
    """What `zoom` shows of the scene without its object: the same draws, an object of no size to be seen."""
    thing = dataclasses.replace(scene.things[0])
    original = judging.render
    try:
        judging.render = lambda s, size, window: original(dataclasses.replace(s, things=()), size, window)
        return zoom(dataclasses.replace(scene, things=(thing,)), rng)
    finally:
        judging.render = original


def test_a_few_steps_teach_it_something_and_the_file_is_read_again(renders, tmp_path, monkeypatch):
    recipe = dataclasses.replace(JUDGE_RECIPE, steps=50, batch=16, warmup=5, ema=0.9)
    task = JudgeTask(renders)
    losses = [p.loss for p in train(task, recipe, tmp_path / "loss", len(task), options=LoopOptions(log_every=1))]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    short = dataclasses.replace(recipe, steps=2)
    seen = []
    first = trained_judge(tmp_path / "judge", renders, seen.append, short)
    assert [progress.step for progress in seen] == [2]
    monkeypatch.setattr(judging, "train", None)
    second = trained_judge(tmp_path / "judge", renders, None, short)
    pictures = torch.rand(3, 3, 64, 64)
    for name, logits in first(pictures).items():
        assert logits.shape == (3, len(HEADS[name]) + 1) and torch.equal(logits, second(pictures)[name])


def test_verdicts_name_the_largest_logit_and_none_for_the_last():
    class Fixed(Judge):
        def forward(self, x):
            picks = {"object": [1, 12], "colour": [0, 7], "background": [6, 5]}
            return {name: torch.eye(len(classes) + 1)[picks[name]] for name, classes in HEADS.items()}

    assert verdicts(Fixed(), torch.rand(2, 64, 64, 3)) == [
        {"object": OBJECTS[1], "colour": COLOURS[0], "background": "none"},
        {"object": "none", "colour": COLOURS[7], "background": BACKGROUNDS[5]},
    ]


@pytest.mark.parametrize("relation", ["above", "below", "left of", "right of"])
def test_each_half_of_a_pair_shows_its_own_object_whole(relation):
    scenes = [s for s in make_scenes(400, 8, "any", "two") if s.relation == relation][:25]
    assert len(scenes) == 25
    for scene in scenes:
        for index in (0, 1):
            # The object alone, against the same background: what of it does the half show?
            alone = dataclasses.replace(scene, things=(scene.things[index],))
            mask = torch.from_numpy(object_mask(alone)).float()[None, :, :, None].expand(1, 64, 64, 3)
            half = two_halves(mask, relation)[index]
            assert half.shape == (1, 64, 64, 3)
            scale = (64 / 35) * (64 / 36)
            assert half[..., 0].sum() > 0.97 * mask[..., 0].sum() * scale
        if scene.things[0].colour != scene.things[1].colour:
            halves = two_halves(torch.from_numpy(render(scene, 64).copy())[None] / 255, relation)
            for half, thing in zip(halves, scene.things, strict=True):
                wanted = torch.tensor(COLOUR_RGB[thing.colour]) / 255
                assert ((half[0] - wanted).abs().amax(-1) < 0.12).float().mean() > 0.02
