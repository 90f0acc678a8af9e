"""`--grid`: which picture goes where, what stands at the edges, and how large the sheet gets."""

import pytest
from PIL import Image

from comfyui_unclip.workflows.rows.contact_sheet import draw, layout
from comfyui_unclip.workflows.rows.jobs import build


@pytest.fixture
def pictures(tmp_path):
    """pictures(numbers, size) -> {number: path of a picture whose red is the number}."""

    def make(numbers, size=(40, 40)):
        for number in numbers:
            Image.new("RGB", size, (number, 0, 0)).save(tmp_path / f"{number}.png")
        return {number: tmp_path / f"{number}.png" for number in numbers}

    return make


def reds(sheet):
    """The pictures' numbers as they stand on the sheet, by lines."""
    lines = []
    for y in range(0, sheet.height, 4):
        row = [sheet.getpixel((x, y)) for x in range(0, sheet.width, 4)]
        found = list(dict.fromkeys(red for red, green, blue in row if green == blue == 0 and 0 < red < 200))
        if found and (not lines or lines[-1] != found):
            lines.append(found)
    return lines


def test_the_last_sweep_goes_across_and_the_others_down(pictures):
    jobs = build([], None, ["prompt=a,b", "scale=1,2", "seed=0..2"])
    place = layout(jobs)
    assert place.across == ["0", "1", "2"] and place.across_name == "seed"
    assert place.down == ["a · 1", "a · 2", "b · 1", "b · 2"] and place.down_name == "prompt · scale"
    sheet = draw(place, pictures(range(1, 13)))
    assert reds(sheet) == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]


def test_a_single_sweep_is_one_line_and_a_missing_picture_a_grey_cell(pictures):
    sheet = draw(layout(build([], None, ["seed=0..4"])), pictures([1, 2, 4, 5]))
    assert reds(sheet) == [[1, 2, 4, 5]]
    assert (224, 224, 224) in [color for _, color in sheet.getcolors(1 << 20)]


def test_a_table_goes_down_with_its_values_as_labels(tmp_path, pictures):
    table = tmp_path / "jobs.csv"
    table.write_text("prompt,seed\nstar,1\nboat,2\n")
    place = layout(build([], table))
    assert place.down == ["1 · star · 1", "2 · boat · 2"] and place.across == [""]
    assert reds(draw(place, pictures([1, 2]))) == [[1], [2]]


def test_large_pictures_are_shrunk_and_small_ones_left_alone(pictures):
    jobs = build([], None, ["seed=0,1"])
    assert draw(layout(jobs), pictures([1, 2], (1024, 512))).width < 2 * 256 + 60
    assert draw(layout(jobs), pictures([1, 2], (64, 64))).width < 2 * 64 + 60


def test_hundreds_of_cells_still_fit_on_a_picture(pictures):
    few = pictures([1])
    sheet = draw(layout(build([], None, ["seed=0..399"])), {number: few[1] for number in range(1, 401)})
    assert sheet.width <= 12_000


def test_long_and_chinese_labels_are_wrapped_and_cut(pictures):
    jobs = build([], None, [f'prompt=["{"a long caption " * 40}", "{"夜空中的一颗红色星星" * 20}"]', "seed=0..1"])
    sheet = draw(layout(jobs), pictures([1, 2, 3, 4], (64, 64)))
    assert sheet.width < 700 and reds(sheet) == [[1, 2], [3, 4]]
