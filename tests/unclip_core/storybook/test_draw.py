"""The renderer: what is drawn, where, and as smoothly as asked."""

import dataclasses

import numpy as np
import pytest

from comfyui_unclip.unclip_core.storybook.draw import BACKGROUND_PAINTERS, COLOUR_RGB, OUTLINE, render
from comfyui_unclip.unclip_core.storybook.scenes import BACKGROUNDS, OBJECTS, Scene, Thing
from comfyui_unclip.unclip_core.storybook.shapes import parts
from comfyui_unclip.unclip_core.storybook.shards import make_scenes


def one(kind="star", colour="red", background="night sky", **changes):
    thing = {"size": "big", "x": 0.5, "y": 0.5, "width": 0.7, **changes}
    return Scene((Thing(kind, colour, **thing),), background)


def test_the_same_scene_is_the_same_picture():
    for scene in make_scenes(6, 1):
        first = render(scene, 64)
        assert first.shape == (64, 64, 3) and first.dtype == np.uint8
        assert np.array_equal(first, render(scene, 64))
        assert first.std() > 5
    assert not np.array_equal(render(one(), 64), render(dataclasses.replace(one(), seed=1), 64))


@pytest.mark.parametrize("window", [(0.25, 0.5, 0.25), (0.0, 0.0, 0.5), (0.75, 0.125, 0.25)])
def test_a_crop_is_the_same_region_of_the_whole_picture(window):
    for kind in ("one", "two", "word"):
        for scene in make_scenes(3, 4, kind=kind):
            left, top, side = (round(256 * part) for part in window)
            whole = render(scene, 256)[top : top + side, left : left + side].astype(int)
            crop = render(scene, side, window).astype(int)
            difference = np.abs(whole - crop)
            assert difference.mean() < 0.6 and (difference > 24).mean() < 0.02


@pytest.mark.parametrize("kind", OBJECTS)
def test_an_object_shows_its_own_colour_and_every_colour_another(kind):
    scene = one(kind)
    bare = dataclasses.replace(scene, things=())
    inside = np.abs(render(scene, 64).astype(int) - render(bare, 64)).sum(2) > 60
    for colour in COLOUR_RGB:
        pixels = render(one(kind, colour), 64)[inside].astype(int)
        distances = {name: np.abs(pixels - rgb).sum(1) for name, rgb in COLOUR_RGB.items()}
        shares = {name: (values < 40).mean() for name, values in distances.items()}
        assert shares[colour] > 0.15 and max(shares, key=shares.get) == colour, (colour, shares)


@pytest.mark.parametrize("kind", ["star", "heart", "tree", "apple", "car", "mushroom"])
def test_the_centre_of_a_compact_object_is_its_colour(kind):
    height = {"car": 0.58, "mushroom": 0.42}.get(kind, 0.5)
    for colour, rgb in COLOUR_RGB.items():
        row = round(64 * height)
        centre = render(one(kind, colour, "snow"), 64)[row - 2 : row + 2, 30:34].reshape(-1, 3).astype(float)
        assert np.abs(np.median(centre, axis=0) - rgb).max() < 12, (kind, colour)


def test_objects_differ_and_stay_inside_their_box():
    bare = render(Scene((), "night sky"), 96)
    masks = {}
    for kind in OBJECTS:
        picture = render(one(kind, "yellow", width=0.6), 96)
        changed = np.abs(picture.astype(int) - bare).sum(2) > 0
        ys, xs = np.nonzero(changed)
        reach = 96 * (0.3 * 1.06 + OUTLINE) + 1
        assert max(np.abs(ys - 47.5).max(), np.abs(xs - 47.5).max()) < reach, kind
        masks[kind] = changed
        for points, role in parts(kind):
            assert len(points) >= 3 and (role in ("main", "dark", "light") or len(role) == 3)
    kinds = list(masks)
    for index, first in enumerate(kinds):
        for second in kinds[index + 1 :]:
            overlap = (masks[first] & masks[second]).sum() / (masks[first] | masks[second]).sum()
            assert overlap < 0.95, (first, second)


def test_edges_are_antialiased():
    heart = one("heart", "white", "night sky")
    smooth, jagged = render(heart, 64, oversample=4), render(heart, 64, oversample=1)
    assert len(np.unique(smooth.reshape(-1, 3), axis=0)) > 1.2 * len(np.unique(jagged.reshape(-1, 3), axis=0))
    fine = render(heart, 512, oversample=2).reshape(64, 8, 64, 8, 3).mean((1, 3))
    assert np.abs(smooth - fine).mean() < 0.5 * np.abs(jagged - fine).mean()


def test_backgrounds_differ_in_their_mean_colours():
    assert set(BACKGROUND_PAINTERS) == set(BACKGROUNDS)
    means = {name: render(Scene((), name), 32).reshape(-1, 3).mean(0) for name in BACKGROUNDS}
    for first in BACKGROUNDS:
        for second in BACKGROUNDS:
            assert first == second or np.abs(means[first] - means[second]).max() > 20, (first, second)


def test_a_word_is_lettered_on_a_white_card_over_the_object():
    plain = one("apple", "red", "sea")
    lettered = dataclasses.replace(plain, word="ipod")
    before, after = render(plain, 128).astype(int), render(lettered, 128).astype(int)
    rows, columns = np.nonzero(np.abs(before - after).sum(2) > 30)
    assert rows.size > 400 and columns.min() < 50 and columns.max() > 78
    card = after[rows.min() : rows.max(), columns.min() : columns.max()]
    assert (card.min(2) > 240).mean() > 0.4  # the card
    assert (card.max(2) < 70).mean() > 0.08  # the ink
    assert not np.array_equal(after, render(dataclasses.replace(plain, word="open"), 128))


def test_things_are_drawn_where_the_scene_says():
    bare = render(Scene((), "meadow"), 64).astype(int)
    for x, y in ((0.25, 0.3), (0.7, 0.6)):
        changed = np.abs(render(one("heart", "blue", "meadow", x=x, y=y, width=0.3), 64) - bare).sum(2) > 60
        ys, xs = np.nonzero(changed)
        assert abs(xs.mean() / 64 - x) < 0.03 and abs(ys.mean() / 64 - y) < 0.04
