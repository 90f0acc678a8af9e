"""The graphs of the paper's figures, on the embedded stack in few steps: what each shows must be in its pictures."""

import numpy as np
import pytest
from PIL import Image

from comfyui_unclip.unclip_core.storybook import examples
from comfyui_unclip.workflows import load, run

CELL, GAP = 64, 4


@pytest.fixture
def sheet(repository, tmp_path):
    """sheet(graph, rows, columns, **settings) -> cells (rows, columns, 64, 64, 3) in 0..1 of the grid it saves."""

    def make(name, rows, columns, /, **settings):
        graph = load(repository / "workflows" / f"{name}.json")
        settings = {"grid.cell_height": CELL, **{key.replace("__", "."): value for key, value in settings.items()}}
        report = run(graph, settings, output=tmp_path)
        assert not report.failed, report.failed[0].error
        path = next(path for path in report.files if path.suffix == ".png")
        picture = np.asarray(Image.open(path), dtype=np.float32) / 255
        top, left = (picture.shape[axis] - count * (CELL + GAP) + GAP for axis, count in ((0, rows), (1, columns)))
        cells = [
            [picture[top + y * (CELL + GAP) :, left + x * (CELL + GAP) :][:CELL, :CELL] for x in range(columns)]
            for y in range(rows)
        ]
        return np.array(cells)

    return make


@pytest.fixture
def example():
    """example(name) -> the bundled picture at 64 px, in 0..1."""

    def small(name):
        picture = Image.fromarray(examples.example(name)[0]).resize((CELL, CELL), Image.Resampling.BICUBIC)
        return np.asarray(picture, dtype=np.float32) / 255

    return small


def distance(a, b):
    """Mean absolute difference of two pictures."""
    return float(np.abs(a - b).mean())


def test_more_eta_varies_more_and_eta_0_gives_the_picture_back(sheet, example):
    cells = sheet("image_variations", 4, 2, **{"all the rest (x_T)__steps": 12, "count": 2, "decoder, eta 0__count": 1})
    picture = example("red apple in the snow")
    far = [distance(cells[0, 0], picture), *(np.mean([distance(c, picture) for c in row]) for row in cells[1:])]
    assert far[0] < 0.03 and far[0] < far[1] < far[2] < far[3]
    assert distance(cells[3, 0], cells[3, 1]) > 3 * far[0]  # other seeds, other pictures


def test_interpolation_goes_from_one_picture_to_the_other(sheet, example):
    steps = {"first, the rest__steps": 10, "second, the rest__steps": 10, "upsample256__steps": 1}
    frames = {"between the embeddings__frames": 4, "between the rests__frames": 4}
    (cells,) = sheet("interpolate_images", 1, 4, **steps, **frames, grid__columns=4)
    first, last = example("red apple in the snow"), example("blue car by the sea")
    toward = [distance(cell, last) - distance(cell, first) for cell in cells]
    assert toward[0] > 0.1 and toward[3] < -0.1 and toward[0] > toward[1] > toward[2] > toward[3]
    assert distance(cells[0], first) < 0.06 and distance(cells[3], last) < 0.06


def test_interpolation_over_one_noise_changes_with_the_embedding_alone(sheet):
    common = {"decoder__steps": 12, "upsample256__steps": 1, "grid__columns": 3}
    (cells,) = sheet("interpolate_one_noise", 1, 3, **common, **{"between the embeddings__frames": 3})
    assert distance(cells[0], cells[2]) > 0.1
    still = {"between the embeddings__frames": 3, "between the embeddings__end": 0.0}
    (same,) = sheet("interpolate_one_noise", 1, 3, **common, **still)
    assert distance(same[0], cells[0]) < 1e-6
    assert distance(same[0], same[2]) < 0.02  # the upsampler's noise is each frame's own


def test_words_turn_the_apple_blue_and_leave_the_snow(sheet, example):
    steps = {"all the rest (x_T)__steps": 12, "upsample256__steps": 1, "grid__columns": 3, "grid__column_labels": ""}
    (cells,) = sheet("text_diff", 1, 3, **steps, **{"turn toward the difference__frames": 3})
    blue = [float(cell[28:40, 24:40, 2].mean() - cell[28:40, 24:40, 0].mean()) for cell in cells]
    assert blue[0] < -0.3 and blue[2] > blue[0] + 0.5
    assert distance(cells[2][52:], cells[0][52:]) < 0.1
    assert distance(cells[0], example("red apple in the snow")) < 0.06


def test_few_components_paint_another_picture_than_many(sheet):
    steps = {"decoder__steps": 12, "upsample256__steps": 1, "grid__columns": 3, "grid__column_labels": ""}
    (cells,) = sheet("pca_reconstruction", 1, 3, **steps, components="3, 80, 192")
    assert distance(cells[1], cells[2]) < 0.5 * distance(cells[0], cells[2])


def test_the_decoder_paints_the_apple_that_carries_a_word(sheet):
    cells = sheet("typographic_attack", 2, 2, decoder__steps=12, decoder__count=2, upsample256__steps=1)
    for painted in cells[1]:
        assert distance(painted[:10], cells[0, 0][:10]) < 0.2
        assert painted[22:28, 26:38, 0].mean() > painted[22:28, 26:38, 2].mean() + 0.2  # red above the card


def test_the_three_ways_to_feed_the_decoder_differ(sheet):
    cells = sheet("prior_comparison", 3, 4, steps=10)
    assert min(distance(cells[a], cells[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 0.05
    sky = cells[2][:, :8, :, 2].mean() - cells[2][:, :8, :, 0].mean()
    assert sky > 0.15  # "on a blue sky" arrives through the prior


def test_both_priors_put_the_fish_into_the_sea(sheet):
    cells = sheet("autoregressive_prior", 2, 2, **{"diffusion__steps": 10, "count": 2}, decoder__steps=12)
    for row in cells:
        corners = row[:, 56:, :8]
        assert (corners[..., 2] - corners[..., 0]).mean() > 0.1
    assert distance(cells[0], cells[1]) > 0.03


def test_inpainting_keeps_what_the_mask_does_not_cover(repository, tmp_path, example):
    graph = load(repository / "workflows" / "inpaint.json")
    settings = {"prior.steps": 10, "decoder.steps": 12, "upsample256.steps": 1, "upsample1024.steps": 1}
    (path,) = run(graph, settings, output=tmp_path).files
    painted = np.asarray(Image.open(path).resize((64, 64), Image.Resampling.BOX), dtype=np.float32) / 255
    picture = example("red apple in the snow")
    assert distance(painted[56:], picture[56:]) < 0.03  # the snow below
    inside = painted[28:40, 24:40]
    assert inside[..., 2].mean() > inside[..., 0].mean() + 0.2  # a blue heart where the red apple was


def test_less_strength_stays_closer_to_the_picture(repository, tmp_path, example):
    graph = load(repository / "workflows" / "image_to_image.json")
    settings = {"prior.steps": 10, "decoder.steps": 20, "upsample256.steps": 1, "upsample1024.steps": 1}
    report = run(graph, settings, sweep={"start.strength": [0.2, 0.9]}, output=tmp_path)
    pictures = [np.asarray(Image.open(path).resize((64, 64)), dtype=np.float32) / 255 for path in sorted(report.files)]
    near, far = (distance(picture, example("red apple in the snow")) for picture in pictures)
    assert near < 0.085 and far > 1.2 * near, (near, far)


def test_each_of_several_captions_is_painted_under_its_own(repository, tmp_path):
    few = {"decoder.steps": 5, "decoder, four of one.steps": 5, "upsample256.steps": 1, "prior.steps": 5}
    few |= {"upsample256, four of one.steps": 1, "pick": 2, "four of one.columns": 4, "a picture of each.columns": 4}
    report = run(load(repository / "workflows" / "several_captions.json"), few, output=tmp_path)
    assert not report.failed, report.failed[0].error
    sheets = {path.name.split("_")[0]: np.asarray(Image.open(path), np.float32) / 255 for path in report.files}
    middles = {name: [cell[96:160, 96:160].mean((0, 1)) for cell in cells(sheet)] for name, sheet in sheets.items()}
    red_star, blue_boat, yellow_fish, _ = middles["each"]
    assert red_star.argmax() == 0 and blue_boat.argmax() == 2 and yellow_fish.argmin() == 2
    assert all(np.abs(middle - yellow_fish).max() < 0.2 for middle in middles["four"])  # the caption that `pick` names
    first, *others = cells(sheets["four"])
    assert all(distance(first, other) > 0.01 for other in others)


def cells(sheet, side=256):
    """The pictures of a sheet with one row."""
    return [sheet[:, left : left + side] for left in range(0, sheet.shape[1], side + GAP)]
