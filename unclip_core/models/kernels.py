"""Layers that compute the same as PyTorch's, faster on processors: oneDNN's packed weights, fused sums, less work.

`freeze` says that a network's weights never change again. Only then may a layer keep a rearranged copy in their place.
What is chosen follows from shapes and the processor, never from timing: one machine gives one picture.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..pages import drop_mapped_pages
from ..processor import products_beat_fused_attention, this_processor

log = logging.getLogger("comfyui_unclip")

# Beyond this a convolution hides the reordering of its weights, and packed ones are slower on 256 px maps.
PACKED_PIXELS = 64 * 64
# A linear layer over many rows hides the reordering too, and gains nothing.
PACKED_ROWS = 256
# Shorter bfloat16 attention is left to PyTorch's fused kernel, whatever the processor: there is little to win.
FUSED_ATTENTION_TOKENS = 128

packing = threading.Lock()  # of layers' weights, one at a time


def freeze(network: nn.Module) -> None:
    """Let the layers of `network` rearrange their weights: it will neither be trained, saved nor moved to a device."""
    for layer in network.modules():
        if isinstance(layer, Conv2d | Linear):
            layer.frozen = True


def uses_onednn(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether oneDNN's own operators may run a layer of weights of `dtype`: on a processor, without gradients or
    autocast. A compiler chooses for itself."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and x.dtype == dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and onednn_operators_work(x.dtype)
    )


@cache
def onednn_operators_work(dtype: torch.dtype) -> bool:
    """Whether oneDNN's operators, which are private to PyTorch, are there, take our arguments and give a layer's sums.

    Tried once a process on tiny layers. They raise where oneDNN lacks the instructions for `dtype`, although PyTorch's
    plain layers compute in it all the same.
    """
    if dtype == torch.bfloat16 and not this_processor().onednn_bf16:
        return False
    # Not drawn at random, which would take from the caller's generator.
    x = torch.linspace(-1, 1, 256, dtype=dtype, device="cpu").view(1, 16, 4, 4)
    x = x.contiguous(memory_format=torch.channels_last)
    kernel = torch.linspace(-1, 1, 2304, dtype=dtype, device="cpu").view(16, 16, 3, 3).sin()
    kernel, shift = kernel.contiguous(memory_format=torch.channels_last), kernel[0, :, 0, 0].clone()
    rows, matrix = x.flatten().view(16, 16), kernel[:, :, 1, 1].contiguous()
    shape = [[1, 1], [1, 1], [1, 1], 1]
    try:
        packed = torch.ops.mkldnn._reorder_convolution_weight(kernel, *shape, list(x.shape))
        found = [
            _convolve(x, packed, shift, shape),
            _convolve(x, kernel, shift, shape, add=x),
            _multiply(rows, torch.ops.mkldnn._reorder_linear_weight(matrix, len(rows)), shift),
        ]
    except (AttributeError, RuntimeError, TypeError) as error:
        log.info("oneDNN's operators cannot be used in %s, PyTorch's plain layers are: %s", dtype, error)
        return False
    plain = F.conv2d(x, kernel, shift, padding=1)
    expected = [plain, plain + x, F.linear(rows, matrix, shift)]
    tolerance = 8 * torch.finfo(dtype).eps * max(out.abs().max().item() for out in expected)
    return all(torch.allclose(*pair, rtol=0, atol=tolerance) for pair in zip(found, expected, strict=True))


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, shape: list, add: Tensor | None = None) -> Tensor:
    """oneDNN's convolution by a plain or a packed weight, plus `add`; shape: padding, stride, dilation, groups."""
    if add is None:
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *shape, "none", [], "")
    return torch.ops.mkldnn._convolution_pointwise.binary(x, add, weight, bias, *shape, "add", 1.0, None, [], None)


def _multiply(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """oneDNN's linear layer by a packed weight."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


class _Packable:
    """What layers share that pack their weights once frozen."""

    frozen = False
    packed: Tensor | None = None  # oneDNN's own layout; `weight` is None from then on
    packed_for: tuple | None = None  # what the layout was made for at first, as it is from then on

    def may_keep_packed(self) -> bool:
        """Whether packed weights may take the place of those that were read; else they are packed at each use."""
        return True


class Conv2d(_Packable, nn.Conv2d):
    """A convolution that adds what follows it, and packs its weights once frozen."""

    doubled: Conv2d | None = None  # the same convolution over a doubled map, see `over_doubled`

    def forward(self, x: Tensor, *, bias: Tensor | None = None, add: Tensor | None = None) -> Tensor:
        """The convolution of x (B, C, H, W), plus `bias` (out,) in every pixel, plus `add` of the output's shape."""
        shift = self.bias if bias is None else self.bias + bias.to(self.bias.dtype)
        if self.packed is None and not uses_onednn(x, self.bias.dtype):
            out = self._conv_forward(x, self.weight, shift)
            return out if add is None else add + out
        weight = self._onednn_weight(x)
        shape = [list(self.padding), list(self.stride), list(self.dilation), self.groups]
        if add is None and self.packed_for is None:
            return self._conv_forward(x, weight, shift)
        return _convolve(x, weight, shift, shape, add)

    def over_doubled(self, x: Tensor, *, bias: Tensor | None = None) -> Tensor:
        """This 3x3 convolution of x (B, C, H, W) with its sides doubled (nearest): (B, out, 2 H, 2 W).

        Doubled pixels come in equal pairs, so each of the four output phases is a 2x2 convolution of x itself: 16
        products a pixel instead of 36, and the same sums.
        """
        if self.doubled is None and not (self.frozen and uses_onednn(x, self.bias.dtype)):
            return self(F.interpolate(x, scale_factor=2.0, mode="nearest"), bias=bias)
        if self.doubled is None:
            with packing:
                self._make_doubled()
        shift = None if bias is None else bias.repeat(4)
        phases = self.doubled(x, bias=shift)  # (B, 4 out, H + 1, W + 1)
        batch, _, height, width = x.shape
        shape = (batch, self.out_channels, 2 * height, 2 * width)
        out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        for phase, part in enumerate(phases.split(self.out_channels, dim=1)):
            row, column = divmod(phase, 2)
            out[:, :, row::2, column::2] = part[:, :, row : row + height, column : column + width]
        return out

    def _make_doubled(self) -> None:
        if self.doubled is not None:
            return
        with torch.device("meta"):
            doubled = Conv2d(self.in_channels, 4 * self.out_channels, 2, padding=1)
        weight = self.weight
        weight = doubled_weight(weight).to(weight.dtype, memory_format=torch.channels_last)
        doubled.weight = nn.Parameter(weight, requires_grad=False)
        doubled.bias = nn.Parameter(self.bias.repeat(4), requires_grad=False)
        doubled.frozen = True
        # Not a submodule: it holds the same weights over again, and no state dict should.
        object.__setattr__(self, "doubled", doubled)
        self.weight = None

    def _onednn_weight(self, x: Tensor) -> Tensor:
        if self.packed is not None:
            return self.packed
        if self.packed_for is None:
            if not self.frozen or x.shape[-1] * x.shape[-2] > PACKED_PIXELS:
                weight = self.weight
                return self.packed if weight is None else weight  # by now another thread may have packed it
            shape = (list(self.padding), list(self.stride), list(self.dilation), self.groups)
            self.packed_for = (*shape, list(x.shape))
        return _pack(self, torch.ops.mkldnn._reorder_convolution_weight)


def doubled_weight(weight: Tensor) -> Tensor:
    """A kernel (out, in, 3, 3) as the 2x2 ones of `Conv2d.over_doubled`, phase by phase: (4 out, in, 2, 2) float32."""
    first = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])  # (taps of the 2, taps of the 3), even phase
    second = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # odd phase
    mix = torch.stack([first, second])  # (phase, 2, 3)
    return torch.einsum("ahi,bwj,ocij->abochw", mix, mix, weight.float()).flatten(0, 2)


class Linear(_Packable, nn.Linear):
    """A linear layer that packs its weights once frozen, if it is used on few rows first."""

    @property
    def dtype(self) -> torch.dtype:
        """The weight's, packed or not."""
        weight = self.weight
        return (self.packed if weight is None else weight).dtype

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        packed = self._packed_weight(x, x.numel() // x.shape[-1])
        if packed is None:
            weight = self.weight
            if weight is not None:
                return F.linear(x, weight, self.bias)
            packed = self.packed  # by now another thread has packed it
        return _multiply(x, packed, self.bias)

    def _packed_weight(self, x: Tensor, rows: int) -> Tensor | None:
        if self.packed is not None:
            return self.packed
        if not self.frozen or (self.packed_for is None and rows > PACKED_ROWS) or not uses_onednn(x, self.dtype):
            return None
        self.packed_for = self.packed_for or (rows,)
        return _pack(self, torch.ops.mkldnn._reorder_linear_weight)


def _pack(layer: Conv2d | Linear, reorder: Callable[..., Tensor]) -> Tensor:
    """The layer's weight in oneDNN's layout, which takes its place; at no time are there two copies of more than one
    layer."""
    with packing:
        if layer.packed is None:
            keeps, weight = layer.may_keep_packed(), layer.weight.detach()
            packed = reorder(weight, *layer.packed_for)
            if not keeps:
                return packed
            layer.packed, layer.weight = packed, None
            drop_mapped_pages(weight)
        return layer.packed


def beats_fused_attention(q: Tensor) -> bool:
    """Whether two matrix products beat PyTorch's fused attention: long, in bfloat16, on processors that gain by it."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling():
        return False
    return q.shape[-2] >= FUSED_ATTENTION_TOKENS and products_beat_fused_attention(this_processor())


def attend_by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of q over k, v (B, heads, T, c) as two matrix products a row of the batch: (B, heads, T_q, c).

    mask: bool or additive, broadcastable to (B, heads, T_q, T_k). Scores are rounded to the inputs' dtype, so the mean
    key is taken out of them first: it shifts a row of scores as a whole, which the softmax ignores.
    """
    k = k - k.mean(dim=-2, keepdim=True)
    if mask is None:
        mask = q.new_zeros(1, 1, 1, 1)
    mask = _additive(mask, q.dtype).expand(q.shape[0], *mask.shape[1:])
    out = torch.empty_like(q)
    for row in range(q.shape[0]):  # one at a time: the scores are the largest tensor of the network
        scores = torch.baddbmm(mask[row], q[row], k[row].transpose(-1, -2), alpha=q.shape[-1] ** -0.5)
        out[row] = torch.bmm(scores.softmax(dim=-1), v[row])
    return out


def learns_attention_by_products(q: Tensor) -> bool:
    """Whether `learning_attention` beats PyTorch's fused attention: in bfloat16, with gradients, where the
    processor gains by it.

    Milliseconds of a forward and a backward pass on one core of an AMD EPYC (Zen 5), fused / products:

    | batch, heads, queries, keys, channels | bfloat16    |
    |---------------------------------------|-------------|
    | 32, 3, 256, 290, 64                   | 91.9 / 35.4 |
    | 32, 6, 64, 100, 64                    | 35.4 / 11.0 |
    | 32, 4, 256, 290, 32                   | 80.9 / 57.9 |
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or not torch.is_grad_enabled():
        return False
    return products_beat_fused_attention(this_processor()) and not torch.compiler.is_compiling()


def learning_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """`attend_by_products` of the whole batch at once, with gradients."""
    with torch.autocast("cpu", enabled=False):
        k = k - k.mean(dim=-2, keepdim=True).detach()  # the softmax ignores it, and so does the gradient
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is not None:
            scores += _additive(mask, q.dtype)
        return scores.softmax(dim=-1) @ v


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


def learns_norms_by_hand(x: Tensor) -> bool:
    """Whether `LearningGroupNorm` beats PyTorch's GroupNorm: a channels-last map of bfloat16 on a processor, with
    gradients.

    Milliseconds of a forward and a backward pass on one core of an AMD EPYC (Zen 5), PyTorch's / by hand:

    | batch, channels, side, groups | bfloat16   | float32   |
    |-------------------------------|------------|-----------|
    | 16, 64, 32, 32                | 14.0 / 3.2 | 2.4 / 3.3 |
    | 16, 128, 16, 32               | 8.4 / 2.1  | 1.2 / 1.2 |
    | 16, 192, 8, 32                | 2.4 / 0.6  | 0.2 / 0.5 |
    | 32, 32, 32, 16                | 13.3 / 3.4 | 2.4 / 2.9 |
    """
    return (
        torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and x.ndim == 4
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )


class LearningGroupNorm(torch.autograd.Function):
    """GroupNorm of a channels-last map, then times `scale` plus `shift`, in a few passes over the whole map each way.
    All sums are of float32, and the affine parameters stay so beside a map of half precision."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        groups: int,
        eps: float,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
    ) -> Tensor:
        """x (B, C, H, W); weight and bias (C,); scale and shift (B, C), or None -> (B, C, H, W) in x's dtype."""
        with torch.autocast("cpu", enabled=False):
            pixels = _exact_pixels(x)
            mean = _over_groups(pixels.mean(1), groups)  # (B, 1, C)
            centred = pixels - mean
            rstd = (_over_groups((centred * centred).mean(1), groups) + eps).rsqrt()
            gain, offset = weight, bias[None, None]
            if scale is not None:
                gain, offset = (weight * scale)[:, None], (bias * scale + shift)[:, None]
            out = torch.addcmul(offset.to(centred), centred, rstd * gain)
        ctx.save_for_backward(x, mean, rstd, weight, bias, scale)
        ctx.groups = groups
        return _as_map(out, x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With d the gradient of the output and n the normed map: sums of d and of d n over the pixels give all
        gradients that are no map; that of x is (gain d - mean(gain d) - n mean(gain d n)) / deviation."""
        x, mean, rstd, weight, bias, scale = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            d, centred = _exact_pixels(grad.contiguous(memory_format=torch.channels_last)), _exact_pixels(x) - mean
            count = d.shape[1]
            sums = d.sum(1)  # (B, C)
            normed_sums = (d * centred).sum(1) * rstd[:, 0]
            gain = weight if scale is None else weight * scale
            by_norm = _over_groups(gain * normed_sums / count, ctx.groups) * -(rstd**2)
            by_mean = _over_groups(gain * sums / count, ctx.groups) * -rstd
            x_grad = torch.addcmul(by_mean, d, gain.view(-1, 1, x.shape[1]) * rstd).addcmul_(centred, by_norm)
            x_grad = _as_map(x_grad, x)
            if scale is None:
                return x_grad, None, None, normed_sums.sum(0), sums.sum(0), None, None
            scale_grad, shift_grad = (each.to(scale) for each in (weight * normed_sums + bias * sums, sums))
            return x_grad, None, None, (scale * normed_sums).sum(0), (scale * sums).sum(0), scale_grad, shift_grad


def _exact_pixels(x: Tensor) -> Tensor:
    """A channels-last map (B, C, H, W) as (B, H * W, C), at least float32."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).to(torch.promote_types(x.dtype, torch.float32))


def _as_map(pixels: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_exact_pixels`, in the shape and dtype of `like`."""
    batch, channels, height, width = like.shape
    return pixels.to(like.dtype).view(batch, height, width, channels).permute(0, 3, 1, 2)


def _over_groups(x: Tensor, groups: int) -> Tensor:
    """The means of groups of channels (B, C), once for each of their channels: (B, 1, C)."""
    mean = x.unflatten(1, (groups, -1)).mean(2, keepdim=True)
    return mean.expand(-1, -1, x.shape[1] // groups).flatten(1)[:, None]
