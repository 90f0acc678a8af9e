"""tests/tools/thumbnails.py: from a folder of finished outputs to the pictures that are shipped."""

import shutil

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("thumbnails")


@pytest.fixture
def checkout(tmp_path, repository):
    (tmp_path / "workflows").mkdir()
    for name in ("shown", "plain"):
        (tmp_path / "workflows" / f"{name}.json").write_text("{}")
    shutil.copy(repository / "workflows" / "text_to_image_karlo.json", tmp_path / "workflows" / "never_run.json")
    page = tmp_path / "web" / "docs" / "Node" / "en.md"
    page.parent.mkdir(parents=True)
    page.write_text("![what it is](shown.jpg)")
    return tmp_path


def test_pictures_are_made_small_for_cards_and_pages(tool, checkout, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (300, 1500, 3), dtype=np.uint8)
    outputs = checkout / "out"
    (outputs / "shown" / "unclip").mkdir(parents=True)
    Image.fromarray(noise).save(outputs / "shown" / "unclip" / "unclip_00001_.png")
    Image.new("RGBA", (64, 64), "red").save(outputs / "plain.png")
    written = {path.relative_to(checkout).as_posix(): path for path in tool.make_all(outputs, checkout)}
    assert set(written) == {
        "workflows/shown.jpg",
        "web/docs/shown.jpg",
        "workflows/plain.jpg",
        "workflows/never_run.jpg",
    }
    assert "never_run: no picture" in capsys.readouterr().out
    assert all(path.stat().st_size <= 40 * 1024 for path in written.values())  # even of pure noise
    assert not list(checkout.rglob("*.part"))
    with Image.open(written["workflows/shown.jpg"]) as card:
        pixels = np.asarray(card, dtype=np.float32)
        assert card.size == (400, 400)
        assert pixels[190:210].std() > 3 * pixels[:120].std()  # a strip lies whole, before a blur
    with Image.open(written["web/docs/shown.jpg"]) as page:
        assert page.size == (640, 128)
    with Image.open(written["workflows/plain.jpg"]) as card:
        assert card.getpixel((200, 150))[0] > 240 and card.getpixel((200, 150))[1] < 20


def test_a_graph_that_never_ran_gets_a_drawing_of_itself_which_a_picture_replaces_and_nothing_else(tool, checkout):
    (checkout / "workflows" / "shown.json").unlink()
    (checkout / "workflows" / "plain.json").unlink()
    outputs, thumbnail = checkout / "out", checkout / "workflows" / "never_run.jpg"
    tool.make_all(outputs, checkout)
    with Image.open(thumbnail) as card:
        drawn = np.asarray(card, dtype=np.float32)
        assert card.size == (400, 400) and drawn.std() > 20 and thumbnail.stat().st_size <= 40 * 1024
    assert tool.make_all(outputs, checkout) == []
    outputs.mkdir()
    Image.new("RGB", (64, 64), "red").save(outputs / "never_run.png")
    assert tool.make_all(outputs, checkout) == [thumbnail]
    with Image.open(thumbnail) as card:
        assert card.getpixel((200, 150))[0] > 240
