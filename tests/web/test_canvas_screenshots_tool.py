"""tests/tools/canvas_screenshots.py without a browser; tests/workflows/server/test_browser.py drives it in one."""

import io

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("canvas_screenshots")


def screenshot(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_every_canvas_that_a_page_shows_is_of_a_shipped_graph_and_was_made(tool, repository):
    names = tool.shown_on_pages(repository)
    assert len(names) >= 2
    for name in names:
        assert tool.read_graph(name, repository)["nodes"]
        path = repository / "docs" / "images" / f"{tool.PREFIX}{name}.webp"
        assert path.stat().st_size <= tool.LIMIT, f"{path}: run tests/tools/canvas_screenshots.py"
        with Image.open(path) as picture:
            assert picture.size == tool.SIZE
    made = {path.name for path in (repository / "docs" / "images").glob(f"{tool.PREFIX}*")}
    assert made == {f"{tool.PREFIX}{name}.webp" for name in names}, "a picture is left that no page shows"


def test_names_are_found_in_links_alone(tool, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("![x](docs/images/canvas_one.webp) canvas_two.webp")
    (tmp_path / "docs" / "editor.md").write_text("![y](images/canvas_three.webp) ![z](images/other.webp)")
    assert tool.shown_on_pages(tmp_path) == ["one", "three"]


def test_a_picture_is_as_good_as_the_limit_allows(tool, tmp_path, monkeypatch):
    noise = screenshot(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    easy, hard = tmp_path / "new" / "easy.webp", tmp_path / "hard.webp"
    plain = tool.save(screenshot(np.full((300, 400, 3), 90, np.uint8)), easy)
    assert plain == easy.stat().st_size < 2000
    free = tool.save(noise, hard)
    monkeypatch.setattr(tool, "LIMIT", free - 1)
    assert tool.save(noise, hard) < free
    monkeypatch.setattr(tool, "LIMIT", 100)
    with pytest.raises(ValueError, match="make it smaller"):
        tool.save(noise, hard)
    assert tool.save(noise, tmp_path / "as_it_is.png") == len(noise) == (tmp_path / "as_it_is.png").stat().st_size
    assert not list(tmp_path.rglob("*.part"))


def test_graphs_and_sizes_are_checked_before_anything_starts(tool, tmp_path, repository):
    assert tool.parse_size("1280x800") == (1280, 800)
    for wrong in ("1280", "1280x", "12x9", "1280 x 800"):
        with pytest.raises(ValueError, match="1600x900"):
            tool.parse_size(wrong)
    assert tool.read_graph("text_diff.json", repository) == tool.read_graph("text_diff", repository)
    (tmp_path / "own.json").write_text('{"nodes": []}')
    assert tool.read_graph(str(tmp_path / "own.json")) == {"nodes": []}
    with pytest.raises(ValueError, match="no such file"):
        tool.read_graph("not_there", repository)
