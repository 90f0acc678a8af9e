"""Depthwise convolutions whose weights' gradient is made of matrix products: on a CPU the library's own takes two to
three times as long, half of a training step of a ConvNeXt at 64 px."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Depthwise(torch.autograd.Function):
    """conv2d of (B, C, H, W) by (C, 1, k, k), k odd, stride 1, "same" padding."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            x, weight, bias = (value.to(torch.get_autocast_dtype("cpu")) for value in (x, weight, bias))
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=x.shape[1])

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = F.conv2d(grad, weight.flip(2, 3), padding=weight.shape[-1] // 2, groups=x.shape[1])
        return x_grad, _weight_grad(grad, x, weight), grad.sum((0, 2, 3))


def _weight_grad(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Kernel row by kernel row: products of every column of the shifted picture with every column of the gradient,
    over whose diagonals the row's entries are sums."""
    side, (batch, channels, height, width) = weight.shape[-1], x.shape
    reach = side // 2
    padded = F.pad(x.permute(1, 2, 0, 3), (0, 0, 0, 0, reach, reach)).contiguous()  # (C, H + 2 reach, B, W)
    wanted = grad.permute(1, 2, 0, 3).reshape(channels, height * batch, width)
    shifts = [padded[:, y : y + height].reshape(channels, height * batch, width) for y in range(side)]
    products = torch.stack([shift.transpose(1, 2) @ wanted for shift in shifts], dim=1).float()  # (C, k, W, W)
    products = F.pad(products, (reach, reach))  # so that narrow pictures have all k diagonals
    entries = [products.diagonal(2 * reach - column, 2, 3).sum(-1) for column in range(side)]
    return torch.stack(entries, dim=-1)[:, None].to(weight.dtype)


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution with the faster gradient; same weights, same values."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return _Depthwise.apply(x, self.weight, self.bias)


def faster_on_cpu(network: nn.Module) -> None:
    """Let every depthwise convolution of `network` that can use it do so: odd kernels, stride 1, "same" padding."""
    for module in network.modules():
        if type(module) is not nn.Conv2d or module.bias is None or module.padding_mode != "zeros":
            continue
        side, channels = module.kernel_size[0], module.in_channels
        depthwise = module.groups == channels == module.out_channels
        same = side % 2 == 1 and module.kernel_size == (side, side) and module.padding == (side // 2, side // 2)
        if depthwise and same and module.stride == module.dilation == (1, 1):
            module.__class__ = DepthwiseConv2d
