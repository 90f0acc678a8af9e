"""Line plots: points are where their numbers say."""

import pytest
import torch

from comfyui_unclip.unclip_core.evaluation.plots import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Point,
    line_plot,
)


def has_colour(picture, x, y, colour, reach=2):
    window = picture[0, round(y) - reach : round(y) + reach + 1, round(x) - reach : round(x) + reach + 1]
    return bool(((window * 255 - torch.tensor(colour)).abs().amax(-1) < 2).any())


def test_points_lie_at_their_places_and_lines_have_their_colours():
    picture = line_plot({"a": [Point(0, 0.0), Point(10, 1.0)], "b": [Point(5, 0.25)]}, "x", "share", percent=True)
    assert picture.shape == (1, HEIGHT, WIDTH, 3) and picture.min() >= 0.0 and picture.max() <= 1.0
    inner = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    assert has_colour(picture, LEFT, HEIGHT - BOTTOM, COLOURS[0])
    right = LEFT + inner[0] * 10 / 10.5  # the axis leaves a twentieth of its range free
    assert has_colour(picture, right, TOP, COLOURS[0])
    assert has_colour(picture, LEFT + inner[0] * 5 / 10.5, HEIGHT - BOTTOM - 0.25 * inner[1], COLOURS[1])
    assert not has_colour(picture, LEFT + inner[0] * 5 / 10.5, HEIGHT - BOTTOM - 0.9 * inner[1], COLOURS[1])


def test_intervals_are_drawn():
    bare = line_plot({"a": [Point(1, 0.5), Point(2, 0.5)]}, "x", "y", percent=True)
    barred = line_plot({"a": [Point(1, 0.5, 0.2, 0.9), Point(2, 0.5)]}, "x", "y", percent=True)
    inner = HEIGHT - TOP - BOTTOM
    assert has_colour(barred, LEFT, HEIGHT - BOTTOM - 0.9 * inner, COLOURS[0])
    assert not has_colour(bare, LEFT, HEIGHT - BOTTOM - 0.9 * inner, COLOURS[0])


def test_axes():
    log = Axis("n", 1, 64, log=True)
    assert [log.place(value) for value in (1, 8, 64)] == pytest.approx([0.0, 0.5, 1.0])
    assert log.ticks() == pytest.approx([1, 2, 4, 8, 16, 32, 64])
    plain = Axis("n", 0.0, 9.5)
    assert plain.ticks() == pytest.approx([0, 2, 4, 6, 8]) and plain.place(4.75) == 0.5
    assert Axis("n", 0, 1, percent=True).text(0.25) == "25%"


@pytest.mark.parametrize("log", [False, True])
def test_one_point_alone_is_drawn_too(log):
    assert line_plot({"a": [Point(3, 2.0)]}, "x", "y", log_x=log).std() > 0.01


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="line_plot of 'y': there is no point"):
        line_plot({"a": []}, "x", "y")
