"""Which device and which dtype are picked."""

import pytest
import torch

from comfyui_unclip.unclip_core.runtime.device import pick_device, pick_dtype


def test_pick_device():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device(torch.device("meta")) == torch.device("meta")
    assert (pick_device().type == "cuda") == torch.cuda.is_available()
    assert (torch.ones(2, device=pick_device()) + 1).sum() == 4  # whatever it picked works


def test_pick_dtype():
    assert pick_dtype("fp32", "cpu") == torch.float32
    assert pick_dtype("bf16", "cpu") == torch.bfloat16
    assert pick_dtype("fp16", "mps") == torch.float16
    assert pick_dtype(torch.float64, "cpu") == torch.float64
    assert pick_dtype("auto", "mps") == torch.float16
    with pytest.raises(ValueError, match="dtype 'half' is unknown; choose one of auto, fp32, bf16, fp16"):
        pick_dtype("half", "cpu")
