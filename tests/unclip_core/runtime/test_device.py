"""Which device and which dtype are picked."""

import pytest
import torch

from comfyui_unclip.unclip_core.models.integers import why_no_integers
from comfyui_unclip.unclip_core.runtime import device as chosen
from comfyui_unclip.unclip_core.runtime.device import DTYPES, exact_float32, pick_device, pick_dtype
from comfyui_unclip.unclip_core.runtime.halves import of_amd, of_intel, of_nvidia
from comfyui_unclip.unclip_core.stack import load_stack

BOTH, FP16, NONE = {"fp16", "bf16"}, {"fp16"}, set()


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


@pytest.mark.parametrize(
    ("halves", "dtype"),
    [(BOTH, torch.float16), (FP16, torch.float16), ({"bf16"}, torch.bfloat16), (NONE, torch.float32)],
)
def test_auto_takes_the_most_exact_half_precision_there_is(halves, dtype, monkeypatch):
    monkeypatch.setattr(chosen, "half_precisions", lambda device: halves)
    assert pick_dtype("auto", "cuda:0") == pick_dtype("auto", "cuda:0", halves) == dtype
    assert pick_dtype("fp32", "cuda:0", halves) == torch.float32  # what the user says wins
    assert pick_dtype("auto", "cpu", halves) in (torch.float32, torch.bfloat16)  # processors have a table of their own


@pytest.mark.parametrize(
    ("capability", "name", "halves"),
    [
        ((9, 0), "NVIDIA H100", BOTH),
        ((8, 6), "NVIDIA GeForce RTX 3060", BOTH),
        ((8, 9), "NVIDIA GeForce RTX 4090", BOTH),
        ((7, 5), "NVIDIA GeForce RTX 2080 Ti", FP16),
        ((7, 5), "Tesla T4", FP16),
        ((7, 5), "Quadro RTX 5000", FP16),
        ((7, 5), "NVIDIA GeForce GTX 1660 SUPER", NONE),
        ((7, 5), "NVIDIA GeForce GTX 1650", NONE),
        ((7, 5), "NVIDIA T1200 Laptop GPU", NONE),
        ((7, 5), "NVIDIA GeForce MX450", NONE),
        ((7, 0), "Tesla V100-SXM2-16GB", FP16),
        ((6, 0), "Tesla P100-PCIE-16GB", FP16),
        ((6, 1), "NVIDIA GeForce GTX 1080", NONE),
        ((5, 2), "NVIDIA GeForce GTX 980", NONE),
    ],
)
def test_nvidias(capability, name, halves):
    assert of_nvidia(capability, name) == halves


@pytest.mark.parametrize(
    ("arch", "halves"),
    [
        ("gfx1100", BOTH),
        ("gfx1201", BOTH),
        ("gfx90a:sramecc+:xnack-", BOTH),
        ("gfx942:sramecc+:xnack-", BOTH),
        ("gfx908", BOTH),
        ("gfx1030", FP16),
        ("gfx1010:xnack-", FP16),
        ("gfx906:sramecc+", FP16),
        ("gfx803", FP16),
    ],
)
def test_amds(arch, halves):
    assert of_amd(arch) == halves


def test_intels():
    assert of_intel(True, True) == BOTH and of_intel(True, False) == FP16 and of_intel(False, False) == NONE


@pytest.mark.parametrize(
    ("dtype", "halves", "network", "wider"),
    [
        ("auto", BOTH, torch.float16, torch.bfloat16),
        ("auto", FP16, torch.float16, torch.float32),
        ("auto", NONE, torch.float32, None),
        ("fp16", BOTH, torch.float16, None),
        ("bf16", BOTH, torch.bfloat16, None),
    ],
)
def test_a_stack_says_what_its_networks_widen_to(tiny_latent_models, dtype, halves, network, wider):
    from comfyui_unclip.unclip_core.checkpoints.catalog import read_stack

    stack = load_stack(read_stack(tiny_latent_models / "tiny-latent"), dtype, torch.device("lazy"), halves=halves)
    for placed in (stack.prior.network, stack.decoder.network):
        assert (placed.dtype, placed._wider) == (network, wider)
    autoencoder = stack.decoder.autoencoder  # never float16
    assert autoencoder.dtype == (torch.float32 if network == torch.float16 else network) and autoencoder._wider is None


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
