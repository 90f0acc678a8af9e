"""Scores against pictures whose score is known."""

import torch

from comfyui_unclip.unclip_core.evaluation import storybook
from comfyui_unclip.unclip_core.evaluation.storybook import captions_of, pair_scores, real_pictures
from comfyui_unclip.unclip_core.storybook.scenes import held_out
from comfyui_unclip.unclip_core.storybook.shards import make_scenes


def truth(scene, index=0):
    thing = scene.things[index]
    return {"object": thing.kind, "colour": thing.colour, "background": scene.background}


def test_pairs_are_bound_only_when_each_half_has_its_own_object_and_colour(oracle):
    scenes = [s for s in make_scenes(40, 2, kind="two") if len({*s.triples()}) == 2][:2]
    answers = []
    for scene, order in zip(scenes, ((0, 1), (1, 0)), strict=True):
        answers += [truth(scene, order[0]), truth(scene, order[1]), truth(scene)]
    scores = pair_scores(oracle(answers), torch.zeros(2, 64, 64, 3), scenes)
    assert scores["background"] == 1.0 and scores["bound"] == 0.5
    assert min(scores["objects"], scores["colours"]) == 0.5


def test_captions_are_full_and_scenes_held_out():
    scenes = make_scenes(20, storybook.SCENE_SEED, "heldout", "one")
    assert all(set(scene.triples()) <= held_out() for scene in scenes)
    captions = captions_of(scenes)
    assert captions == captions_of(scenes) and len(set(captions)) > 10
    assert all(character < "\u4e00" for character in "".join(captions))
    assert any(character >= "\u4e00" for character in captions_of(scenes, "zh")[0])
    pictures = real_pictures(scenes)
    assert pictures.shape == (20, 64, 64, 3) and pictures.min() >= 0 and pictures.max() <= 1
