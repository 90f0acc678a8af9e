"""What counts as a number, of all that an editor or a graph may link to an input."""

import math

import pytest

from comfyui_unclip.unclip_core.checks import is_number, is_whole


@pytest.mark.parametrize(
    ("value", "whole", "number"),
    [
        (3, True, True),
        (-2.5, False, True),
        (True, False, False),
        (None, False, False),
        ("3", False, False),
        (math.nan, False, False),
        (math.inf, False, False),
        (10**400, True, False),  # JSON has it, a float has not
    ],
)
def test_numbers_are_told_from_what_python_takes_for_them(value, whole, number):
    assert is_whole(value) is whole and is_number(value) is number
