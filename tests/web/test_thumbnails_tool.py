"""tests/tools/thumbnails.py: from a folder of finished outputs to the pictures that are shipped."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_unclip.unclip_core.pictures.drawing import labelled_grid
from comfyui_unclip.workflows.checks.stacks import shipped_graphs

OTHERS = ("karlo", "kandinsky", "sd_unclip")
MADE_FOR_OTHERS = [name for name in shipped_graphs() if any(word in name for word in OTHERS)]


@pytest.fixture(scope="module")
def tool(load_tool, repository):
    folder = str(repository / "tests" / "tools")
    sys.path.insert(0, folder)
    try:
        yield load_tool("thumbnails")
    finally:
        sys.path.remove(folder)


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


def test_a_graph_that_never_ran_gets_a_sketch_which_a_picture_replaces_and_nothing_else(tool, checkout):
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


def test_a_strip_is_folded_into_rows_without_its_labels(tool):
    colours = [(200, 30 * place, 90) for place in range(7)]
    cells = [torch.tensor(colour).float().expand(1, 60, 60, 3) / 255 for colour in colours]
    sheet = labelled_grid([cells[0], torch.cat(cells[1:])], ["picture", "painted from it"], ["a", "b"], 4)
    strip = Image.fromarray((sheet[0].numpy() * 255).round().astype(np.uint8))
    assert strip.width > 2 * strip.height
    rows = tool.folded(strip)
    assert rows.size == (3 * 62 - 2, 3 * 62 - 2)
    shown = [rows.getpixel((62 * (place % 3) + 30, 62 * (place // 3) + 30)) for place in range(9)]
    assert shown == [*colours, (255, 255, 255), (255, 255, 255)]
    plain = Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 400, 3), dtype=np.uint8))
    assert tool.folded(plain) is plain and tool.folded(rows) is rows


@pytest.mark.parametrize("name", MADE_FOR_OTHERS)
def test_a_sketch_shows_pictures_of_what_the_caption_says(tool, repository, name):
    graph = json.loads((repository / "workflows" / f"{name}.json").read_text("utf-8"))
    card = tool.sketches.card(graph)
    pixels = np.asarray(card)
    assert card.size == (400, 400)
    ground = (pixels == pixels[0, 0]).all(-1).mean()
    assert ground < 0.75 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 300  # words alone leave more, in greys
