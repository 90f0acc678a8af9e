"""Likeness of pictures against closed forms."""

import pytest
import torch

from comfyui_unclip.unclip_core.pictures.likeness import psnr


def test_psnr_is_the_closed_form():
    true = torch.full((2, 8, 8, 3), 0.5)
    made = torch.stack([true[0] + 0.1, true[1] + 0.01])
    assert psnr(made, true) == pytest.approx((20 + 40) / 2, abs=1e-3)  # of each picture, then the mean
    assert psnr(true, true) == pytest.approx(100.0)
    assert psnr(made * 2 - 1, true * 2 - 1, span=2.0) == pytest.approx(psnr(made, true), abs=1e-3)
    rounded = made.bfloat16()
    assert psnr(rounded, true.bfloat16()) == psnr(rounded.float(), true)
