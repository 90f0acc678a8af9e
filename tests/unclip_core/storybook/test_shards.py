"""Pre-drawn shards: drawn once, opened equal, never seen half-written."""

import numpy as np
import pytest

from comfyui_unclip.unclip_core.storybook import shards
from comfyui_unclip.unclip_core.storybook.draw import render
from comfyui_unclip.unclip_core.storybook.shards import draw_many, make_scenes, make_swaps, prepare


def test_shards_hold_the_scenes_as_drawn(story, story_folder):
    assert story.shard.shape == (64, 64, 64, 3) and story.shard.dtype == np.uint8
    assert story.scenes == make_scenes(64, 1)
    for row in (0, 31, 63):
        assert np.array_equal(story.shard[row], render(story.scenes[row], 64))
    assert sorted(path.name for path in story_folder.iterdir()) == ["storybook-64-1.jsonl", "storybook-64-1.npy"]


def test_opening_again_draws_nothing(story, story_folder, monkeypatch):
    monkeypatch.setattr(shards, "render", None)
    pictures, scenes, groups = prepare(story_folder, 64, 1)
    assert np.array_equal(pictures, story.shard) and scenes == story.scenes
    assert groups == list(range(64))
    assert isinstance(pictures, np.memmap) and not pictures.flags.writeable


@pytest.mark.parametrize("at", ["drawing", "scenes"])
def test_a_kill_leaves_no_shard_that_looks_whole(tmp_path, monkeypatch, at):
    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shards, "draw_many" if at == "drawing" else "scene_to_json", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path, 6, 2)
    assert not (tmp_path / "storybook-6-2.jsonl").exists()
    pictures, scenes, _ = prepare(tmp_path, 6, 2)
    assert np.array_equal(pictures, draw_many(make_scenes(6, 2))) and len(scenes) == 6


def test_a_lost_half_is_drawn_again(tmp_path):
    whole, *_ = prepare(tmp_path, 4, 3)
    whole = np.array(whole)
    (tmp_path / "storybook-4-3.npy").unlink()
    again, *_ = prepare(tmp_path, 4, 3)
    assert np.array_equal(again, whole)


def test_workers_draw_the_same_pictures(monkeypatch):
    monkeypatch.setattr(shards, "FORK_FROM", 1)
    scenes = make_scenes(8, 5)
    assert np.array_equal(draw_many(scenes, workers=2), draw_many(scenes))


def test_groups_of_exchanges_lie_together_and_are_found_again(tmp_path):
    made = make_swaps(24, 1)
    for _ in range(2):  # drawn, and opened
        pictures, scenes, groups = prepare(tmp_path, 24, 1, swaps=True)
        assert [
            [scene for scene, own in zip(scenes, groups, strict=True) if own == n] for n in range(len(made))
        ] == made
        assert np.array_equal(pictures[23], render(scenes[23], 64))
    assert not np.array_equal(prepare(tmp_path, 24, 1)[0], pictures)  # beside the plain ones of the same seed
