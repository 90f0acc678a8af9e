"""What the editor's page rewrites at Run: `%...%` in file names, choices and comments in dynamic prompts."""

import time
from datetime import datetime

import pytest

from comfyui_unclip.workflows.document.replacements import choose, fill_name

NOW = datetime(2024, 3, 5, 14, 7, 9)


def widget(node, name):
    return {("a", "x"): 1.0, ("a", "on"): True, ("a", "none"): None, ("a", "path"): "b/c:d"}[node, name]


@pytest.mark.parametrize(
    ("prefix", "filled"),
    [
        ("%date:yyyy-MM-dd%/p", "2024-03-05/p"),
        ("%date:h.m.s%", "14"),  # as in the editor: what follows a dot is no date
        ("%date:yy_M_d hhmmss yyy%", "24_3_5 140709 yyy"),
        ("%a.x%_%a.on%_%a.none%_%a.path%", "1_true__b_c_d"),
        ("%b.x% %a.y% %width% 100%", "%b.x% %a.y% %width% 100%"),
    ],
)
def test_file_names_are_filled_in(prefix, filled):
    assert fill_name(prefix, widget, NOW) == filled


def test_one_of_each_choice_is_picked():
    assert choose("a {b|c {d|e}} f", lambda options: options[-1]) == "a c e f"
    assert choose("a {b|c {d|e}} f", lambda options: options[0]) == "a b f"
    assert {choose("{x|y}") for _ in range(50)} == {"x", "y"}


def test_comments_go_and_escapes_stay():
    assert choose(r"a /* b */c // d" + "\ne \\{f\\|g\\} http://h") == "a c \ne {f|g} http:"


@pytest.mark.parametrize("text", ["/*" * 60_000, "{" * 60_000, "{|" * 60_000, "\\" * 60_001, "//" * 60_000])
def test_any_text_takes_linear_time(text):
    started = time.process_time()
    choose(text)
    assert time.process_time() - started < 5
