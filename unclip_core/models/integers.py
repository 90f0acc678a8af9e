"""int8: convolutions and linear layers whose weights and inputs are rounded to 8 bits and multiplied by oneDNN.

A weight (out, ...) has one scale for each output channel, and is zero in its middle. The input of a convolution has
one scale and one zero for each picture of the batch, that of a linear layer one scale for each row, found anew at every
call: so they follow the sampler's steps, and no picture depends on its neighbours. Nothing is cut off, because
outliers matter. Sums are exact integers, and what comes out is float32. Networks' first and last layers, the embeddings
of time and conditioning, norms, attention and biases stay in float32.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from ..pages import drop_mapped_pages
from ..processor import this_processor
from .kernels import Conv2d, Linear, doubled_weight, packing
from .unet import UNet

log = logging.getLogger("comfyui_unclip")

WEIGHT_LEVELS = 127  # of each sign
# One less than bytes have: with the zero rounded to a whole level, both ends stay within them.
INPUT_LEVELS = 254
# Of residual blocks and attentions, plain layers elsewhere: a sixth of the numbers of Karlo's decoder.
LARGE_MATRICES = ("time", "context_kv")
ROW_ZERO = 128  # the level of a linear layer's zero


def why_no_integers(device: torch.device) -> str:
    """What a network in int8 lacks on `device`, as a sentence's end; "" for nothing."""
    if device.type != "cpu":
        return f"is for processors, but this runs on {device}: PyTorch has no such operators there, and fp16 is faster"
    if not this_processor().vnni:
        return "needs a processor with VNNI instructions (Intel from 2019, AMD from Zen 4), which this one is not"
    if not integer_operators_work():
        return "needs PyTorch's quantised oneDNN operators, which this PyTorch or ONEDNN_MAX_CPU_ISA withholds"
    return ""


@cache
def integer_operators_work() -> bool:
    """Whether oneDNN's quantised operators, which are private to PyTorch, are there, take our arguments, sum exactly.

    Tried once a process on tiny layers, with the largest bytes there are: instructions older than VNNI cut their sums.
    """
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    x = torch.linspace(0, 255, 256, device="cpu").view(1, 16, 4, 4).to(torch.uint8)
    x[:, :, 0] = 255
    x = x.contiguous(memory_format=torch.channels_last)
    levels = (torch.linspace(-127, 127, 2304, device="cpu").view(16, 16, 3, 3) * 5).clamp(-127, 127).to(torch.int8)
    matrix, rows = levels[:, :, 1, 1].contiguous(), x.flatten().view(16, 16)
    ones, shape = torch.ones(16, device="cpu"), [[1, 1], [1, 1], [1, 1], 1]
    try:
        found = [
            _convolve(x, 1.0, 7, _packed_kernel(levels, ones, shape, list(x.shape)), ones, None, shape),
            _multiply(rows, _packed_matrix(matrix, len(rows)), ones),
        ]
    except (AttributeError, RuntimeError, TypeError) as error:
        log.info("oneDNN's quantised operators cannot be used: %s", error)
        return False
    # Sums of float32 are exact below 2^24.
    expected = [
        nn.functional.conv2d(x.float() - 7, levels.float(), padding=1),
        nn.functional.linear(rows.float() - ROW_ZERO, matrix.float()),
    ]
    return all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def _packed_kernel(levels: Tensor, scales: Tensor, shape: list, size: list[int]) -> Tensor:
    """oneDNN's layout of a kernel of int8; shape: stride, padding, dilation, groups."""
    return torch.ops.onednn.qconv_prepack(levels, scales, 1.0, ROW_ZERO, *shape, size)


def _convolve(
    x: Tensor, scale: float, zero: int, packed: Tensor, scales: Tensor, bias: Tensor | None, shape: list
) -> Tensor:
    """float32 convolution of (x - zero) * scale, x of bytes, by levels * scales, plus bias."""
    zeros = torch.zeros(len(scales), dtype=torch.int32, device=x.device)
    return torch.ops.onednn.qconv2d_pointwise(
        x, scale, zero, packed, scales, zeros, bias, *shape, 1.0, 0, torch.float32, "none", [], ""
    )


def _packed_matrix(levels: Tensor, rows: int) -> Tensor:
    """oneDNN's layout of a matrix of int8 for about so many rows."""
    return torch.ops.onednn.qlinear_prepack(levels, [rows, levels.shape[1]])


def _multiply(x: Tensor, packed: Tensor, scales: Tensor) -> Tensor:
    """float32 product of x - ROW_ZERO, x of bytes, and a packed matrix of int8 times its scales.

    Signed bytes would need no zero, but on AMD oneDNN multiplies them a thousand times slower.
    """
    zeros = torch.zeros(len(scales), dtype=torch.int32, device=x.device)
    return torch.ops.onednn.qlinear_pointwise(
        x, 1.0, ROW_ZERO, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


def rounded_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(levels int8 of the weight's shape, scales (out,) float32): levels times scales is the weight (out, ...)."""
    weight = weight.detach().float()
    largest = weight.flatten(1).abs().amax(1)
    scales = torch.where(largest > 0, largest / WEIGHT_LEVELS, 1.0)
    levels = (weight / scales.view(-1, *[1] * (weight.ndim - 1))).round_()
    return levels.to(torch.int8), scales


def rounded_map(x: Tensor) -> tuple[Tensor, float, int]:
    """(bytes of x's shape, scale, zero): (bytes - zero) * scale is x, 0 exactly itself. x: one picture, contiguous."""
    low, high = (end.item() for end in x.aminmax())
    scale = (max(high, 0.0) - min(low, 0.0)) / INPUT_LEVELS
    if not math.isfinite(scale):  # the sampler's check finds it, and names the step
        return torch.zeros_like(x, dtype=torch.uint8), math.nan, 0
    if scale < torch.finfo(torch.float32).tiny:
        return torch.zeros_like(x, dtype=torch.uint8), 1.0, 0
    zero = round(-min(low, 0.0) / scale)
    # A cast cuts off, so half a level more makes it round.
    return torch.add(x.new_tensor(zero + 0.5), x, alpha=1.0 / scale).to(torch.uint8), scale, zero


def rounded_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(bytes (N, in), scales (N, 1)): (bytes - ROW_ZERO) * scales is x (N, in)."""
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    scales = torch.maximum(high, -low).clamp_(min=torch.finfo(torch.float32).tiny * 256) / WEIGHT_LEVELS
    return torch.addcmul(x.new_tensor(ROW_ZERO + 0.5), x, scales.reciprocal()).to(torch.uint8), scales


class IntegerConv2d(Conv2d):
    """A convolution in int8. Its weight is rounded on first use, straight from the file where that maps it."""

    source: Tensor | None = None  # the weight before it is rounded, in any dtype; `packed` from then on
    scales: Tensor

    @classmethod
    def of(cls, layer: Conv2d) -> IntegerConv2d:
        """The same convolution, with the weight that `layer` has."""
        shape = (layer.stride, layer.padding, layer.dilation, layer.groups)
        with torch.device("meta"):
            made = cls(layer.in_channels, layer.out_channels, layer.kernel_size, *shape)
        made.source, made.weight, made.bias = layer.weight.detach(), None, layer.bias
        return made

    def forward(self, x: Tensor, *, bias: Tensor | None = None, add: Tensor | None = None) -> Tensor:
        """As `kernels.Conv2d`."""
        shift = self.bias if bias is None else self.bias + bias.to(self.bias.dtype)
        pixels = x.permute(0, 2, 3, 1).contiguous()
        shape = [list(self.stride), list(self.padding), list(self.dilation), self.groups]
        if self.packed is None:
            _round(self, lambda levels, scales: _packed_kernel(levels, scales, shape, [1, *x.shape[1:]]))
        whole = None
        for row in range(len(x)):
            levels, scale, zero = rounded_map(pixels[row : row + 1])
            out = _convolve(levels.permute(0, 3, 1, 2), scale, zero, self.packed, self.scales, shift, shape)
            if len(x) == 1:
                return out if add is None else out.add_(add)
            if whole is None:
                size = (len(x), *out.shape[1:])
                whole = torch.empty(size, device=out.device, memory_format=torch.channels_last)
            if add is None:
                whole[row : row + 1] = out
            else:
                torch.add(out, add[row : row + 1], out=whole[row : row + 1])
        return whole

    def _make_doubled(self) -> None:
        if self.doubled is not None:
            return
        with torch.device("meta"):
            doubled = IntegerConv2d(self.in_channels, 4 * self.out_channels, 2, padding=1)
        doubled.source, doubled.weight = doubled_weight(self.source), None
        doubled.bias = nn.Parameter(self.bias.repeat(4), requires_grad=False)
        doubled.frozen = True
        object.__setattr__(self, "doubled", doubled)
        drop_mapped_pages(self.source)
        self.source = None


class IntegerLinear(Linear):
    """A linear layer in int8, as `IntegerConv2d`."""

    source: Tensor | None = None
    scales: Tensor

    @classmethod
    def of(cls, layer: nn.Linear) -> IntegerLinear:
        """The same layer, with the weight that `layer` has."""
        with torch.device("meta"):
            made = cls(layer.in_features, layer.out_features, bias=layer.bias is not None)
        made.source, made.weight, made.bias = layer.weight.detach(), None, layer.bias
        return made

    def forward(self, x: Tensor) -> Tensor:
        """As `kernels.Linear`."""
        rows = x.reshape(-1, self.in_features)
        if self.packed is None:
            _round(self, lambda levels, _: _packed_matrix(levels, len(rows)))
        levels, scales = rounded_rows(rows)
        out = _multiply(levels, self.packed, self.scales)
        out = out.mul_(scales) if self.bias is None else torch.addcmul(self.bias, out, scales)
        return out.view(*x.shape[:-1], self.out_features)


def _round(layer: IntegerConv2d | IntegerLinear, pack: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Replace the layer's source by oneDNN's layout of it in int8."""
    with packing:
        if layer.packed is None:
            levels, layer.scales = rounded_weight(layer.source)
            packed = pack(levels, layer.scales)
            drop_mapped_pages(layer.source)
            layer.packed, layer.source = packed, None


FEW_CHANNELS = 128  # of a convolution: with fewer, rounding its input takes what the product gains


def to_integers(network: nn.Module, few_channels: int = FEW_CHANNELS) -> nn.Module:
    """The network with its inner convolutions and linear layers in int8, in place of its own.

    Convolutions of fewer channels than `few_channels` are kept: in the embedded decoder those of the largest maps,
    which would cost 2 dB. So are the last level's skip convolutions of a UNet: their input, which no norm has evened
    out, is most of the picture, and they alone would cost 7 dB there.
    """
    unets = [module for module in network.modules() if isinstance(module, UNet)]
    kept = {block.skip for unet in unets for block in unet.up[-1].blocks}
    for module in list(network.modules()):
        for name, layer in list(module.named_children()):
            if layer in kept:
                continue
            if isinstance(layer, Conv2d) and min(layer.in_channels, layer.out_channels) >= few_channels:
                setattr(module, name, IntegerConv2d.of(layer))
            elif isinstance(layer, Linear) or (name in LARGE_MATRICES and isinstance(layer, nn.Linear)):
                setattr(module, name, IntegerLinear.of(layer))
    return network


def integer_bytes(network: nn.Module) -> int:
    """What the weights in int8 take, rounded already or not."""
    return sum(_numbers(layer) for layer in network.modules() if isinstance(layer, IntegerConv2d | IntegerLinear))


def _numbers(layer: IntegerConv2d | IntegerLinear) -> int:
    if isinstance(layer, IntegerLinear):
        return layer.in_features * layer.out_features
    if layer.doubled is not None:
        return _numbers(layer.doubled)
    return layer.out_channels * layer.in_channels // layer.groups * math.prod(layer.kernel_size)
