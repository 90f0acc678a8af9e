"""Which device and which dtype are picked."""

import pytest
import torch

from comfyui_unclip.unclip_core.models.integers import why_no_integers
from comfyui_unclip.unclip_core.runtime.device import DTYPES, exact_float32, pick_device, pick_dtype


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


def test_int8_is_for_processors_that_have_it_and_never_picked_by_itself():
    lacks = why_no_integers(torch.device("cpu"))
    if lacks:
        with pytest.raises(ValueError, match="Load unCLIP: dtype int8 needs"):
            pick_dtype("int8", "cpu")
    else:
        assert pick_dtype("int8", "cpu") == torch.int8
    for device in ("cuda:0", "mps", "xpu"):
        with pytest.raises(ValueError, match=f"dtype int8 is for processors, but this runs on {device}.*choose auto"):
            pick_dtype("int8", device)
    assert pick_dtype("auto", "cpu").is_floating_point
    assert "int8" not in DTYPES  # those to train and to store in


@pytest.mark.parametrize("setting", ["as PyTorch comes", "TF32", "medium"])
def test_exact_float32_holds_inside_alone(setting):
    """Whatever another program set, by the old or the new names, which PyTorch lets nobody mix."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    known = matmul.allow_tf32, cudnn.allow_tf32
    precision = torch.get_float32_matmul_precision()
    try:
        if setting == "TF32":
            matmul.allow_tf32 = cudnn.allow_tf32 = True
        elif setting == "medium":
            torch.set_float32_matmul_precision("medium")
        before = _precisions(), matmul.allow_tf32, cudnn.allow_tf32
        with pytest.raises(ZeroDivisionError), exact_float32():
            assert set(_precisions()) <= {"ieee", False}
            raise ZeroDivisionError
        assert (_precisions(), matmul.allow_tf32, cudnn.allow_tf32) == before
    finally:
        torch.set_float32_matmul_precision(precision)
        matmul.allow_tf32, cudnn.allow_tf32 = known


def _precisions():
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if not hasattr(cuda, "fp32_precision"):
        return [cuda.allow_tf32, cudnn.allow_tf32]
    return [each.fp32_precision for each in (cuda, cudnn.conv, torch.backends.mkldnn.matmul)]
