"""The judge that is not trained: it finds again what was drawn, and nothing where nothing is."""

import dataclasses
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from comfyui_unclip.unclip_core.evaluation import synthesis
from comfyui_unclip.unclip_core.evaluation.judge import half_erased
from comfyui_unclip.unclip_core.evaluation.storybook import real_pictures
from comfyui_unclip.unclip_core.evaluation.synthesis import ROLES, Pose, fits, layers
from comfyui_unclip.unclip_core.storybook.draw import COLOUR_RGB, render
from comfyui_unclip.unclip_core.storybook.scenes import COLOURS, OBJECTS, Scene, Thing
from comfyui_unclip.unclip_core.storybook.shards import make_scenes


def spoilt(pictures, seed=0):
    """Blurred a little and noisy, as samples are."""
    channels = pictures.movedim(-1, 1)
    blurred = F.avg_pool2d(F.pad(channels, (1,) * 4, mode="replicate"), 3, 1)
    noise = 0.04 * torch.randn(channels.shape, generator=torch.Generator().manual_seed(seed))
    return (0.6 * channels + 0.4 * blurred + noise).clamp(0, 1).movedim(1, -1)


def said(scene):
    thing = scene.things[0]
    return {"object": thing.kind, "colour": thing.colour, "background": scene.background}


@pytest.mark.parametrize("kind", OBJECTS)
def test_a_drawing_in_roles_is_the_renderers(kind):
    """Given their colours, the layers are the picture that the renderer draws, to the pixel."""
    pose = Pose(kind, 131, 120, 30, 2)
    thing = pose.thing("purple")
    main = np.array(COLOUR_RGB["purple"]) / 255
    colours = synthesis.LAYER_RGB.T + synthesis.LAYER_SHARE[:, None] * main
    cover = layers(pose)
    scene = Scene((thing,), "night sky")
    bare = render(dataclasses.replace(scene, things=()), 64) / 255.0
    ours = np.einsum("rhw,rc->hwc", cover, colours) + (1 - cover.sum(0))[..., None] * bare
    difference = np.abs(ours - render(scene, 64) / 255.0).max(-1)
    # Its middle is drawn to a quarter of a pixel elsewhere in the picture: lines may round the other way.
    assert np.quantile(difference, 0.95) < 0.05 and difference.mean() < 0.01
    assert set(np.flatnonzero(cover.any((1, 2)))) >= {ROLES.index("ink"), ROLES.index("main")}


def test_layers_shift_by_fractions_of_a_pixel_and_are_cut_at_the_edge():
    pose = Pose("house", 128, 128, 20)
    for step in (4, 8):
        moved = layers(dataclasses.replace(pose, x=128 + step))
        assert np.array_equal(moved[:, :, 16:], layers(pose)[:, :, 16 - step // 4 : 64 - step // 4])
    half = layers(dataclasses.replace(pose, x=130))
    beside = (layers(pose) + layers(dataclasses.replace(pose, x=132))) / 2
    assert np.abs(half.sum((1, 2)) - beside.sum((1, 2))).max() < 1e-4
    cut = layers(dataclasses.replace(pose, x=0))
    assert 0.4 < cut.sum() / layers(pose).sum() < 0.6
    window = (slice(20, 50), slice(10, 60))
    assert np.array_equal(layers(pose, window), layers(pose)[:, 20:50, 10:60])


def test_one_object_is_found_again_clean_and_spoilt():
    scenes = make_scenes(16, 7, "heldout", "one")
    clean = real_pictures(scenes)
    for pictures, least in ((clean, 16), (spoilt(clean), 14)):
        found = fits(pictures)
        right = [fit for fit, scene in zip(found, scenes, strict=True) if fit.said() == said(scene)]
        assert len(right) >= least
    for fit, scene in zip(fits(clean), scenes, strict=True):
        seen, thing = fit.things[0].thing, scene.things[0]
        assert abs(seen.x - thing.x) < 0.01 and abs(seen.y - thing.y) < 0.01 and fit.residual < 0.06
        assert abs(seen.width / thing.width - 1) < 0.04 and abs(seen.angle - thing.angle) < 4


def test_pale_things_on_pale_ground_are_found_by_their_outline():
    things = [Thing(kind, "white", "medium", 0.5, 0.45, 0.52, 4.0) for kind in ("star", "mushroom", "heart")]
    scenes = [Scene((thing,), background, seed=3) for thing, background in zip(things, ("snow",) * 3, strict=True)]
    assert [fit.said() for fit in fits(real_pictures(scenes))] == [said(scene) for scene in scenes]


def test_two_objects_are_found_where_they_stand():
    scenes = make_scenes(10, 8, "heldout", "two")
    found = fits(real_pictures(scenes))
    truth = [tuple({"object": t.kind, "colour": t.colour} for t in scene.things) for scene in scenes]
    assert sum(fit.placed(scene.relation) == told for fit, scene, told in zip(found, scenes, truth, strict=True)) >= 9
    opposite = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
    aside = {"above": "left of", "below": "right of", "left of": "above", "right of": "below"}
    for fit, scene, told in zip(found, scenes, truth, strict=True):
        if fit.placed(scene.relation) == told:
            assert fit.placed(opposite[scene.relation]) == told[::-1] and fit.placed(aside[scene.relation]) is None
        assert fit.said()["object"] == "none"  # two are not one


def test_nothing_is_found_where_nothing_is():
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 64, 64, 3, generator=generator)
    clouds = F.interpolate(torch.rand(2, 3, 8, 8, generator=generator), 64, mode="bicubic", align_corners=False)
    for fit in fits(torch.cat([noise, clouds.clamp(0, 1).movedim(1, -1)])):
        assert fit.said() == {"object": "none", "colour": "none", "background": "none"} and fit.residual > 0.5
    scenes = make_scenes(6, 9, "train", "one")
    empty = [dataclasses.replace(scene, things=()) for scene in scenes]
    for fit, scene in zip(fits(real_pictures(empty)), scenes, strict=True):
        assert fit.said() == {"object": "none", "colour": "none", "background": scene.background}
    halves = torch.stack([half_erased(scene, random.Random(0)).movedim(0, -1) / 2 + 0.5 for scene in scenes])
    assert sum(fit.said()["object"] == "none" for fit in fits(halves)) >= 5


def test_a_colour_of_no_name_is_none():
    scene = Scene((Thing("heart", "green", "big", 0.5, 0.5, 0.7),), "snow", seed=1)
    picture = real_pictures([scene])[0]
    green = torch.tensor(COLOUR_RGB["green"]) / 255
    brown = torch.tensor([0.45, 0.42, 0.40])
    body = (picture - green).norm(dim=-1, keepdim=True) < 0.02
    assert fits(picture[None])[0].said()["colour"] == "green"
    assert fits(torch.where(body, brown, picture)[None])[0].said()["colour"] not in COLOURS


def test_it_is_deterministic_takes_pictures_one_by_one_and_refuses_large_ones():
    pictures = spoilt(real_pictures(make_scenes(2, 5, "train", "one")))
    assert fits(pictures) == fits(pictures) == [*fits(pictures[:1]), *fits(pictures[1:])]
    with pytest.raises(ValueError, match=r"shape \(1, 256, 256, 3\).*give the decoder's 64 px pictures"):
        fits(torch.zeros(1, 256, 256, 3))
