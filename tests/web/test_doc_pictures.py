"""Every picture of a graph on the pages stands beside the command that makes it, and the tool finds both."""

import pytest
from PIL import Image

from comfyui_unclip.workflows.document.reading import shipped_names


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("doc_pictures")


def test_every_picture_has_a_command_and_a_file(tool, repository):
    page = tool.PAGE.read_text(encoding="utf-8")
    shown, known = tool.pictures(page), tool.commands(page)
    assert len(shown) >= 10 and set(shown) <= set(known)
    assert known["image_variations"] == ["run", "image_variations", "-o", "out"]
    for name in shown:
        assert (repository / "docs" / "images" / f"{name}.png").is_file()
        assert known[name][1] in shipped_names()
    readme = tool.README.read_text(encoding="utf-8")
    assert "prompt=a red star on a night sky" in tool.commands(readme)["text_to_image"]


def test_a_command_that_fails_ends_it(tool, tmp_path):
    with pytest.raises(tool.subprocess.CalledProcessError):
        tool.made_by(["run", "no-such-graph", "-o", "out"], tmp_path)


def test_sheets_keep_their_width_and_single_pictures_are_made_small(tool):
    assert tool.fitted(Image.new("RGB", (1556, 302))).size == (1000, 194)
    assert tool.fitted(Image.new("RGB", (620, 260))).size == (620, 260)
    assert tool.fitted(Image.new("RGB", (1024, 1024))).size == (320, 320)


def test_a_name_without_a_picture_is_refused(tool):
    with pytest.raises(ValueError, match="no page shows sunrise"):
        tool.make(["sunrise"])
