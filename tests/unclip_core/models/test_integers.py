"""int8 layers against the same rounding done by hand in float64, and what is left of a network in them."""

import copy

import pytest
import torch
import torch.nn.functional as F

from comfyui_unclip.unclip_core.models.integers import (
    IntegerConv2d,
    IntegerLinear,
    integer_bytes,
    rounded_map,
    rounded_rows,
    rounded_weight,
    to_integers,
    why_no_integers,
)
from comfyui_unclip.unclip_core.models.kernels import Conv2d, Linear, freeze
from comfyui_unclip.unclip_core.models.lora import Branch, with_branches
from comfyui_unclip.unclip_core.models.unet import UNet

CPU = torch.device("cpu")
needs_integers = pytest.mark.skipif(why_no_integers(CPU) != "", reason=f"int8 {why_no_integers(CPU)}")


def by_hand(x, channels):
    """x rounded as the module's page says, in float64: one scale and zero for each entry of dimension 0, or one scale
    for each row."""
    x = x.double()
    if not channels:
        scale = x.abs().amax(-1, keepdim=True) / 127
        return (x / scale).round() * scale
    low, high = (end(x.flatten(1), 1).values.view(-1, 1, 1, 1) for end in (torch.min, torch.max))
    scale = (high.clamp(min=0) - low.clamp(max=0)) / 254
    return (x / scale).round() * scale


def weight_by_hand(weight):
    """The weight rounded by one scale for each output channel; the quotients in float32, so that ties go one way."""
    scale = weight.float().abs().flatten(1).amax(1).view(-1, *[1] * (weight.ndim - 1)) / 127
    return (weight.float() / scale).round().double() * scale


def close(found, expected, levels):
    """All but for values that lie halfway between two levels, which float32 and float64 may round to either side."""
    difference = (found.double() - expected).abs()
    return difference.max() <= levels and (difference > 1e-4 * expected.abs().max()).double().mean() < 1e-3


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        torch.manual_seed(0)
        yield


@needs_integers
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_convolution_is_the_one_rounded_by_hand(kernel, stride, kind):
    layer = Conv2d(24, 40, kernel, stride=stride, padding=kernel // 2)
    layer.weight.mul_(torch.logspace(-2, 1, 40)[:, None, None, None])  # channels of very different sizes
    layer.weight.data = layer.weight.data.to(kind)  # as a file may have it
    fast = IntegerConv2d.of(layer)
    x = F.silu(torch.randn(3, 24, 9, 11)) * torch.tensor([1.0, 0.01, 30.0]).view(3, 1, 1, 1)
    more = torch.randn_like(layer._conv_forward(x, layer.weight.float(), None))
    keep, bias = more.clone(), torch.randn(40)
    plain = F.conv2d(
        by_hand(x, True), weight_by_hand(layer.weight), layer.bias.double(), stride=stride, padding=kernel // 2
    )
    # A value that was rounded the other way changes a sum by one level of its picture times one weight.
    levels = x.flatten(1).abs().amax(1).max() / 100 * layer.weight.float().abs().max()
    shift = bias.double()[:, None, None]
    for _ in range(2):  # the second time from the rounded weight
        assert close(fast(x), plain, levels)
        assert close(fast(x.contiguous(memory_format=torch.channels_last), bias=bias), plain + shift, levels)
        assert close(fast(x, add=more), plain + more, levels) and torch.equal(more, keep)
        assert close(fast(x[:1], add=more[:1]), plain[:1] + more[:1], levels) and torch.equal(more, keep)
    assert fast.source is None and fast.weight is None and not any(p.ndim > 1 for p in fast.parameters())
    assert fast(x).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(fast(x[:1]), fast(x)[:1])  # no picture depends on its neighbours


@needs_integers
def test_each_output_channel_has_a_scale_of_its_own():
    """One scale for all would leave nothing of the channels of small weights."""
    layer = Conv2d(16, 8, 3, padding=1, bias=True)
    layer.weight.mul_(torch.logspace(-4, 0, 8)[:, None, None, None])
    layer.bias.zero_()
    x = torch.randn(1, 16, 12, 12)
    plain, found = layer(x), IntegerConv2d.of(layer)(x)
    error = ((found - plain).square().mean((0, 2, 3)) / plain.square().mean((0, 2, 3))).sqrt()
    assert error.max() < 0.02
    levels, scales = rounded_weight(layer.weight)
    assert levels.dtype == torch.int8 and levels.flatten(1).abs().amax(1).tolist() == [127] * 8
    assert torch.allclose(scales, layer.weight.flatten(1).abs().amax(1) / 127)


@needs_integers
def test_a_convolution_of_a_doubled_map_is_the_convolution_of_the_doubled_map():
    layer = Conv2d(24, 16, 3, padding=1)
    fast = IntegerConv2d.of(copy.deepcopy(layer))
    freeze(fast)
    x, bias = F.silu(torch.randn(2, 24, 6, 5)), torch.randn(16)
    plain = layer(F.interpolate(x, scale_factor=2.0, mode="nearest"), bias=bias)
    found = fast.over_doubled(x, bias=bias)
    assert found.shape == plain.shape and (found - plain).square().mean().sqrt() < 0.01 * plain.std()
    assert fast.source is None and integer_bytes(fast) == 4 * 16 * 24 * 4


@needs_integers
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_the_one_rounded_by_hand(bias):
    layer = Linear(48, 64, bias=bias)
    layer.weight.mul_(torch.logspace(-2, 1, 64)[:, None])
    fast = IntegerLinear.of(layer)
    x = torch.randn(2, 5, 48) * torch.logspace(-3, 3, 10).view(2, 5, 1)  # tokens of very different sizes
    shift = layer.bias.double() if bias else None
    plain = F.linear(by_hand(x, False), weight_by_hand(layer.weight), shift)
    for _ in range(2):
        assert close(fast(x), plain, x.abs().max() / 100 * layer.weight.abs().max())
    assert torch.equal(fast(x[:1]), fast(x)[:1])  # no row depends on its neighbours
    assert fast.source is None and fast.weight is None


def test_rounded_inputs_keep_zero_both_ends_and_what_is_no_number():
    for low, high in ((-0.3, 9.0), (-5.0, 0.0), (2.0, 3.0), (-7.0, -2.0), (0.0, 0.0), (-1e-30, 1e-30)):
        x = torch.linspace(low, high, 1001)
        levels, scale, zero = rounded_map(x)
        again = (levels.double() - zero) * scale
        assert 0 <= zero <= 255 and (again - x.double()).abs().max() <= 0.501 * scale, (low, high)
        rows, scales = rounded_rows(x[None])
        assert (((rows.double() - 128) * scales.double())[0] - x.double()).abs().max() <= 0.501 * scales.item()
    for wrong in (float("nan"), float("inf"), float("-inf")):
        x = torch.tensor([[1.0, wrong, 2.0]])
        assert not torch.isfinite(torch.tensor(rounded_map(x)[1]))
        assert not torch.isfinite(rounded_rows(x)[1]).all()


@needs_integers
@pytest.mark.parametrize("layer", [Conv2d(16, 16, 1), Linear(16, 16)], ids=["convolution", "linear"])
def test_what_is_no_number_does_not_become_one(layer):
    """Else the sampler's check would miss it, and the picture would be grey."""
    fast = to_integers(torch.nn.ModuleList([layer]), few_channels=1)[0]
    x = torch.randn(2, 16, 4, 16)
    x[1, 3, 2, 3] = float("nan")
    found = fast(x)
    assert torch.isfinite(found[0]).all() and not torch.isfinite(found[1]).all()


@needs_integers
def test_networks_compute_nearly_the_same(case, run):
    kind, config = case
    network = kind(config).eval().requires_grad_(False)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)  # or branches that start as zero would hide everything
    plain = run(network)
    whole = sum(parameter.numel() for parameter in network.parameters())
    fast = to_integers(copy.deepcopy(network), few_channels=1)
    freeze(fast)
    unets = [module for module in network.modules() if isinstance(module, UNet)]
    exact = {block.skip for unet in unets for block in unet.up[-1].blocks}
    ours = [
        layer
        for name, layer in network.named_modules()
        if (isinstance(layer, Conv2d | Linear) or name.endswith((".time", ".context_kv"))) and layer not in exact
    ]
    floats = sum(parameter.numel() for parameter in fast.parameters())
    assert floats == whole - sum(layer.weight.numel() for layer in ours) and integer_bytes(fast) == whole - floats
    found = run(fast)
    assert 0 < (found - plain).square().mean().sqrt() < 0.05 * plain.std()


def test_convolutions_of_few_channels_stay_in_float():
    layers = torch.nn.ModuleList([Conv2d(64, 256, 1), Conv2d(256, 64, 1), Conv2d(128, 128, 1), Linear(16, 16)])
    found = [isinstance(layer, IntegerConv2d | IntegerLinear) for layer in to_integers(layers)]
    assert found == [False, False, True, True]


@needs_integers
def test_branches_stay_in_float_on_top():
    network = torch.nn.ModuleDict({"matrix": Linear(24, 16, bias=False), "kernel": Conv2d(24, 16, 3, padding=1)})
    fast = to_integers(copy.deepcopy(network), few_channels=1)
    freeze(fast)
    branches = {
        "matrix": Branch(torch.randn(2, 24), torch.randn(16, 2)),
        "kernel": Branch(torch.randn(2, 24, 3, 3), torch.randn(16, 2)),
    }
    rows, x = torch.randn(5, 24), torch.randn(2, 24, 8, 8)
    fast["kernel"](x), fast["matrix"](rows)  # rounded before the branches come
    branched = with_branches(fast, branches)
    for name, inputs in (("matrix", rows), ("kernel", x)):
        added = with_branches(network, branches)[name](inputs) - network[name](inputs)
        assert torch.allclose(branched[name](inputs) - fast[name](inputs), added, atol=1e-4)


def test_a_gpu_is_refused_and_so_is_a_processor_without_the_instructions(monkeypatch):
    from comfyui_unclip.unclip_core.models import integers
    from comfyui_unclip.unclip_core.processor import Processor

    assert "is for processors, but this runs on cuda" in why_no_integers(torch.device("cuda"))
    monkeypatch.setattr(integers, "this_processor", lambda: Processor("intel"))
    assert "needs a processor with VNNI" in why_no_integers(CPU)
    monkeypatch.setattr(integers, "this_processor", lambda: Processor("intel", vnni=True))
    integers.integer_operators_work.cache_clear()
    monkeypatch.setattr(integers, "_packed_kernel", lambda *_: torch.ops.onednn.no_such_operator())
    try:
        assert "needs PyTorch's quantised oneDNN operators" in why_no_integers(CPU)
    finally:
        integers.integer_operators_work.cache_clear()
