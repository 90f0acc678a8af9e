"""Letters that a machine has no font for do not become boxes."""

import pytest
import torch

from comfyui_unclip.unclip_core.pictures import fonts
from comfyui_unclip.unclip_core.pictures.drawing import bar_chart, labelled_grid


@pytest.fixture
def without_fonts(monkeypatch):
    """A machine with Pillow's own font alone."""
    monkeypatch.setattr(fonts, "_WIDE_FONTS", ())
    fonts._load.cache_clear()
    yield
    fonts._load.cache_clear()


def test_a_letter_without_a_font_becomes_a_question_mark_and_is_named(without_fonts, caplog):
    font = fonts.font_for("红 apple", 18)
    assert fonts.drawable(font, "红 apple…") == "? apple…"
    assert fonts.cut(font, "红 apple", 200) == "? apple" and fonts.wrapped(font, "红 apple", 200) == ["? apple"]
    assert "红" in caplog.text and "apple" not in caplog.text


def test_labels_are_drawn_without_boxes(without_fonts):
    picture = torch.full((1, 64, 64, 3), 0.5)
    assert torch.equal(labelled_grid([picture], ["红"]), labelled_grid([picture], ["?"]))
    assert torch.equal(bar_chart(["红"], [0.5]), bar_chart(["?"], [0.5]))


def test_a_long_label_of_a_chart_is_on_several_lines():
    name = 'a red apple with the word "ipod" on it, lettered in white on a dark card'
    one, both = bar_chart(["a fish"], [0.25]), bar_chart([name], [0.25])
    assert both.shape[1] > one.shape[1] + 15
    assert not torch.equal(both, bar_chart([name[:-4] + "desk"], [0.25]))  # its end is there too
