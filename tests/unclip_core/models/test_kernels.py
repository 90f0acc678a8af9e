"""Layers after `freeze` against the plain ones: the same sums, in another order."""

import copy
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from comfyui_unclip.unclip_core.models import kernels
from comfyui_unclip.unclip_core.models.kernels import Conv2d, LearningGroupNorm, Linear, attend_by_products, freeze
from comfyui_unclip.unclip_core.models.layers import GroupNorm, ResBlock, attend
from comfyui_unclip.unclip_core.pages import drop_mapped_pages
from comfyui_unclip.unclip_core.processor import Processor

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch built without oneDNN")
BF16 = 2.0**-8


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def channels_last(*shape):
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


def frozen(layer):
    clone = copy.deepcopy(layer)
    freeze(clone)
    return clone


@needs_onednn
@pytest.mark.parametrize("side", [8, 80])  # packed, and too large to be
@pytest.mark.parametrize("batches", [(2, 1, 5), (1, 4)])
def test_a_frozen_convolution(side, batches):
    layer = Conv2d(24, 40, 3, padding=1)
    fast = frozen(layer)
    for batch in batches:  # whatever it was packed for
        x, more, bias = channels_last(batch, 24, side, side), channels_last(batch, 40, side, side), torch.randn(40)
        plain = F.conv2d(x, layer.weight, layer.bias, padding=1)
        assert torch.allclose(fast(x), plain, atol=1e-5)
        assert torch.allclose(fast(x, add=more), plain + more, atol=1e-5)
        assert torch.allclose(fast(x, bias=bias, add=more), plain + bias[:, None, None] + more, atol=1e-5)
    assert (fast.packed is not None) == (side == 8) == (fast.weight is None)


@needs_onednn
@pytest.mark.parametrize("height, width", [(6, 6), (5, 9), (1, 1)])
def test_a_convolution_over_a_doubled_map(height, width):
    """Edges included: what lies outside counts as 0 in both."""
    layer, x, bias = Conv2d(16, 24, 3, padding=1), channels_last(2, 16, height, width), torch.randn(24)
    plain = layer(F.interpolate(x, scale_factor=2.0, mode="nearest"), bias=bias)
    assert torch.allclose(layer.over_doubled(x, bias=bias), plain)  # not frozen: the very same
    fast = frozen(layer)
    out = fast.over_doubled(x, bias=bias)
    assert torch.allclose(out, plain, atol=1e-5) and out.is_contiguous(memory_format=torch.channels_last)
    assert fast.weight is None and torch.equal(out, fast.over_doubled(x, bias=bias))


@needs_onednn
def test_a_frozen_linear_layer():
    layer = Linear(24, 40)
    few, many = torch.randn(2, 3, 24), torch.randn(300, 24)
    for order in ((few, many), (many, few)):
        fast = frozen(layer)
        for x in order:
            assert torch.allclose(fast(x), F.linear(x, layer.weight, layer.bias), atol=1e-5)
        assert fast.packed is not None and fast.weight is None


@needs_onednn
@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize("resample", ["none", "up", "down"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_frozen_block(scale_shift, resample, rows):
    block = ResBlock(16, 32, 20, scale_shift=scale_shift, groups=4, eps=1e-5, resample=resample)
    torch.nn.init.normal_(block.conv_2.weight, std=0.1)
    x, time = channels_last(3, 16, 8, 8), torch.randn(rows, 20)
    with torch.enable_grad():  # as in training: every plain operator
        plain = block(x, time).detach()
    assert torch.allclose(frozen(block)(x, time), plain, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("kind", ["convolution", "linear layer"])
def test_threads_may_use_a_layer_while_one_of_them_packs_it(kind):
    """Of two sizes: the one packs the weights, the other would use them as they are."""
    if kind == "convolution":
        layer, inputs = Conv2d(16, 32, 3, padding=1), [channels_last(1, 16, side, side) for side in (8, 80)]
    else:
        layer, inputs = Linear(32, 64), [torch.randn(rows, 32) for rows in (4, 400)]
    plain = [layer(x) for x in inputs] * 2

    def use(fast, together, x):
        with torch.no_grad():  # of this thread
            together.wait()
            return fast(x)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for _ in range(400):
                fast, together = frozen(layer), Barrier(4)
                found = pool.map(partial(use, fast, together), inputs * 2)
                assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(found, plain, strict=True))
    finally:
        sys.setswitchinterval(interval)


def test_nothing_is_rearranged_before_it_is_frozen():
    layers = Conv2d(8, 8, 3, padding=1), Linear(8, 8)
    x = channels_last(1, 8, 4, 4)
    layers[0](x), layers[0].over_doubled(x), layers[1](torch.randn(3, 8))
    assert all(layer.weight is not None and layer.packed is None for layer in layers)


@pytest.mark.parametrize("masked", [None, "bool", "additive"])
def test_attention_as_two_products(masked):
    q, k, v = torch.randn(2, 4, 9, 8), torch.randn(2, 4, 12, 8), torch.randn(2, 4, 12, 8)
    hidden = torch.zeros(2, 1, 1, 12, dtype=torch.bool)
    hidden[1, ..., 5:] = True
    mask = {None: None, "bool": ~hidden, "additive": torch.zeros(2, 1, 1, 12).masked_fill(hidden, -1e4)}[masked]
    reference = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert torch.allclose(attend_by_products(q, k, v, mask), reference, atol=1e-6)


def test_attention_as_two_products_rounds_no_worse_for_large_common_scores():
    """A mean key, as trained networks have it, shifts all scores of a row and would cost their last bits."""
    q, k, v = torch.randn(1, 2, 256, 32) + 1.0, torch.randn(1, 2, 300, 32) + 4.0, torch.randn(1, 2, 300, 32)
    low = [x.bfloat16() for x in (q, k, v)]
    exact = F.scaled_dot_product_attention(*(x.float() for x in low))

    def error(out):
        return (out.float() - exact).norm() / exact.norm()

    assert error(attend_by_products(*low)) < min(2 * BF16, 4 * error(F.scaled_dot_product_attention(*low)))
    scores = (low[0] @ low[1].transpose(-1, -2) * 32**-0.5).softmax(-1)
    assert error(attend_by_products(*low)) < 0.5 * error(scores @ low[2])


@pytest.mark.parametrize("wins", [True, False])
def test_attention_is_the_same_whichever_way_the_processor_prefers(monkeypatch, wins):
    processor = Processor("amd", avx512_bf16=wins, onednn_bf16=wins)
    monkeypatch.setattr(kernels, "this_processor", lambda: processor)
    for dtype, tokens in ((torch.bfloat16, 256), (torch.float32, 256), (torch.bfloat16, 64)):
        q = torch.randn(1, 2, tokens, 16).to(dtype)
        assert kernels.beats_fused_attention(q) is (wins and dtype == torch.bfloat16 and tokens == 256)
        with torch.enable_grad():
            assert not kernels.beats_fused_attention(q)
            assert kernels.learns_attention_by_products(q) is (wins and dtype == torch.bfloat16)
        exact = F.scaled_dot_product_attention(*[q.float()] * 3).transpose(1, 2).flatten(2)
        assert (attend(q, q, q).float() - exact).norm() < 2 * BF16 * exact.norm()


@pytest.mark.parametrize("masked", [None, "bool", "additive"])
def test_attention_that_learns_has_the_gradients_of_the_fused_one(masked):
    hidden = torch.zeros(2, 1, 1, 40, dtype=torch.bool)
    hidden[1, ..., 25:] = True
    mask = {None: None, "bool": ~hidden, "additive": torch.zeros(2, 1, 1, 40).masked_fill(hidden, -1e4)}[masked]
    q, k, v = torch.randn(2, 3, 30, 16) + 1.0, torch.randn(2, 3, 40, 16) + 4.0, torch.randn(2, 3, 40, 16) + 1.0
    given = torch.randn(2, 3, 30, 16)

    def gradients(attention, dtype):
        with torch.enable_grad():
            inputs = [x.to(dtype).requires_grad_() for x in (q, k, v)]
            low = mask.to(dtype) if masked == "additive" else mask
            out = attention(*inputs, low)
            return torch.cat([x.flatten().float() for x in (out, *torch.autograd.grad(out, inputs, given.to(dtype)))])

    exact = gradients(F.scaled_dot_product_attention, torch.float64)
    assert torch.allclose(gradients(kernels.learning_attention, torch.float32), exact.float(), atol=1e-4)
    fused = gradients(F.scaled_dot_product_attention, torch.bfloat16)
    by_hand = gradients(kernels.learning_attention, torch.bfloat16)
    assert (by_hand - exact).norm() < max(1.5 * (fused - exact).norm(), 2 * BF16 * exact.norm())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says what a process maps")
def test_a_packed_layer_gives_its_mapped_pages_back(tmp_path):
    file = tmp_path / "w.safetensors"
    save_file({"w": torch.randn(2048, 2048)}, file)
    with safe_open(file, framework="pt") as mapping:
        weight = mapping.get_tensor("w")
    total, before = weight.sum(), resident(weight)
    drop_mapped_pages(weight)
    assert before > 10 and resident(weight) < 1  # MB of 16
    assert torch.equal(weight.sum(), total)  # and reads them again
    own = torch.ones(2**20)
    drop_mapped_pages(own)
    assert own.all(), "memory without a file must stay"


def resident(tensor):
    """MB of the mapping around a tensor that are in memory."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        span = line.split()[0]
        if "-" in span and not span.endswith(":"):
            low, high = (int(edge, 16) for edge in span.split("-"))
            inside = low <= tensor.data_ptr() < high
        elif inside and line.startswith("Rss:"):
            return int(line.split()[1]) / 1024
    return 0.0


@torch.enable_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_norm_that_learns_by_hand_gives_the_gradients_of_pytorchs(dtype, scaled):
    """Against float64; half precision as near as its own rounding."""
    affine = torch.promote_types(dtype, torch.float32)
    weight, bias = torch.randn(12, dtype=affine), torch.randn(12, dtype=affine)
    x = (2 * channels_last(3, 12, 8, 8) + 1).to(dtype)
    scale, shift, grad = torch.randn(3, 12).to(dtype), torch.randn(3, 12).to(dtype), torch.randn(3, 12, 8, 8).to(dtype)
    given = [x, weight, bias, *([scale, shift] if scaled else [])]

    def gradients(forward, inputs):
        inputs = [each.detach().clone(memory_format=torch.preserve_format).requires_grad_() for each in inputs]
        out = forward(*inputs)
        return out, *torch.autograd.grad(out, inputs, grad.to(out))

    def ours(x, weight, bias, scale=None, shift=None):
        return LearningGroupNorm.apply(x, 4, 1e-5, weight, bias, scale, shift)

    def exact(x, weight, bias, scale=None, shift=None):
        out = F.group_norm(x, 4, weight, bias, 1e-5)
        return out if scale is None else out * scale[:, :, None, None] + shift[:, :, None, None]

    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: BF16}[dtype]
    for one, other in zip(gradients(ours, given), gradients(exact, [each.double() for each in given]), strict=True):
        assert (one.double() - other).norm() <= tolerance * other.norm()


@torch.enable_grad()
def test_norms_learn_by_hand_where_that_is_faster():
    """Under autocast too, whose maps are of half precision beside float32 weights; another layout is PyTorch's."""
    norm, x = GroupNorm(4, 12), channels_last(2, 12, 8, 8).bfloat16()
    wanted = F.group_norm(x.float(), 4)
    for given, by_hand in ((x, True), (x.contiguous(), False), (x.float(), False)):
        with torch.autocast("cpu", torch.bfloat16):
            out = norm(given)
        assert ("LearningGroupNorm" in type(out.grad_fn).__name__) == by_hand
        assert out.dtype == given.dtype and (out.float() - wanted).abs().max() < 4 * BF16
    with torch.no_grad():
        assert norm(x).grad_fn is None
