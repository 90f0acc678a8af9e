"""An autoencoder over pictures too large to hold every map of a block at once: maps are made in strips of rows.

Nothing is approximated. A norm's statistics are those of the whole map, gathered strip by strip before the first one is
normalised; convolutions read the rows beside their strip; attention sees every pixel. So the result is the whole
network's, up to the order of sums. What is held in full is a block's input, the map between its two convolutions, and
its output; all that lies between is a strip.

Without gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import Conv2d
from ..layers import GroupNorm, attend, split_heads
from .blocks import Attention, Block, Decoder, Encoder, Level, Middle, SpatialNorm

# Attention weights that are held at once: queries of one strip times all keys.
SCORES = 2**25

ReadRows = Callable[[int, int], Tensor]  # rows first..last - 1 of a map


def decode_in_strips(decoder: Decoder, x: Tensor, z: Tensor | None, pixels: int | None) -> Tensor:
    """`decoder(x, z)`, row by row of the batch, in strips of at most `pixels` pixels of a map; None: by itself."""
    if pixels is None:
        return decoder(x, z)
    rows = [slice(row, row + 1) for row in range(len(x))]
    return torch.cat([_decode(decoder, x[row], None if z is None else z[row], pixels) for row in rows])


def encode_in_strips(encoder: Encoder, x: Tensor, pixels: int | None) -> Tensor:
    """`encoder(x)`, as `decode_in_strips`."""
    return encoder(x) if pixels is None else torch.cat([_encode(encoder, row, pixels) for row in x.split(1)])


def _decode(decoder: Decoder, x: Tensor, z: Tensor | None, pixels: int) -> Tensor:
    x = _middle(decoder.middle, decoder.conv_in(x), z, pixels)
    for level in decoder.levels:
        x = _level(level, x, z, pixels)
        if level.resample is not None:
            x = _doubled(level.resample, x, pixels)
    return _convolve(decoder.conv_out, *_normed(decoder.norm_out, x, z, pixels), pixels)


def _encode(encoder: Encoder, x: Tensor, pixels: int) -> Tensor:
    x = _convolve(encoder.conv_in, lambda first, last: x[:, :, first:last], x, pixels)
    for level in encoder.levels:
        x = _level(level, x, None, pixels)
        if level.resample is not None:
            x = _halved(level.resample, x, pixels)
    x = _middle(encoder.middle, x, None, pixels)
    return _convolve(encoder.conv_out, *_normed(encoder.norm_out, x, None, pixels), pixels)


def _level(level: Level, x: Tensor, z: Tensor | None, pixels: int) -> Tensor:
    for index, block in enumerate(level.blocks):
        x = _block(block, x, z, pixels)
        if level.attentions:
            x = _attention(level.attentions[index], x, z)
    return x


def _middle(middle: Middle, x: Tensor, z: Tensor | None, pixels: int) -> Tensor:
    x = _attention(middle.attention, _block(middle.block_1, x, z, pixels), z)
    return _block(middle.block_2, x, z, pixels)


def _block(block: Block, x: Tensor, z: Tensor | None, pixels: int) -> Tensor:
    if x.shape[-2] * x.shape[-1] <= pixels:
        return block(x, z)
    h = _convolve(block.conv_1, *_normed(block.norm_1, x, z, pixels), pixels)
    if block.skip is not None:
        x = _convolve(block.skip, lambda first, last: x[:, :, first:last], x, pixels)
    # x is nobody else's: the sum takes its place.
    return _convolve(block.conv_2, *_normed(block.norm_2, h, z, pixels), pixels, onto=x)


def _attention(attention: Attention, x: Tensor, z: Tensor | None) -> Tensor:
    """As the module itself, with the queries in parts."""
    batch, channels, height, width = x.shape
    tokens = attention.norm(x, z).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    q, k, v = split_heads(attention.qkv(tokens), 3, 1)
    parts = q.split(max(1, SCORES // (height * width)), dim=2)
    out = attention.proj(torch.cat([attend(part, k, v) for part in parts], dim=1))  # (B, H * W, C)
    return x + out.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _convolve(conv: Conv2d, read: ReadRows, x: Tensor, pixels: int, onto: Tensor | None = None) -> Tensor:
    """A convolution of stride 1 that keeps the sides of x (1, C, H, W), whose rows, already changed, `read` gives.

    onto: the map that the result is added to, in place.
    """
    height, width = x.shape[-2:]
    beside = conv.kernel_size[0] // 2
    out = _empty(conv.out_channels, height, width, x) if onto is None else onto
    for first, last in _strips(height, width, pixels):
        top = max(0, first - beside)
        # The convolution pads the strip itself with zeros: right at the map's edges, and elsewhere in rows left out.
        rows = conv(read(top, min(height, last + beside)))[:, :, first - top :][:, :, : last - first]
        place = out[:, :, first:last]
        place.copy_(rows) if onto is None else place.add_(rows)
    return out


def _doubled(conv: Conv2d, x: Tensor, pixels: int) -> Tensor:
    """`conv.over_doubled(x)`."""
    height, width = x.shape[-2:]
    out = _empty(conv.out_channels, 2 * height, 2 * width, x)
    for first, last in _strips(height, width, pixels // 4):
        top = max(0, first - 1)
        rows = conv.over_doubled(x[:, :, top : min(height, last + 1)])[:, :, 2 * (first - top) :]
        out[:, :, 2 * first : 2 * last].copy_(rows[:, :, : 2 * (last - first)])
    return out


def _halved(conv: Conv2d, x: Tensor, pixels: int) -> Tensor:
    """The encoder's strided convolution, padded below and to the right alone."""
    height, width = (side // 2 for side in x.shape[-2:])
    out = _empty(conv.out_channels, height, width, x)
    for first, last in _strips(height, width, pixels // 4):
        rows = x[:, :, 2 * first : 2 * last + 1]
        below = 2 * last + 1 - min(2 * last + 1, x.shape[-2])
        out[:, :, first:last].copy_(conv(F.pad(rows, (0, 1, 0, below))))
    return out


def _normed(norm: nn.Module, x: Tensor, z: Tensor | None, pixels: int) -> tuple[ReadRows, Tensor]:
    """(what reads rows of `silu(norm(x, z))`, x): the statistics are of all of x."""
    group_norm: GroupNorm = norm.norm if isinstance(norm, SpatialNorm) else norm
    statistics = _statistics(group_norm, x, pixels)
    modulation = (norm.scale(z), norm.shift(z)) if isinstance(norm, SpatialNorm) else ()

    def read(first: int, last: int) -> Tensor:
        rows = x[:, :, first:last]
        # By given statistics, a norm of channels and one of groups are the same.
        rows = F.batch_norm(rows, *statistics, training=False, eps=group_norm.eps)
        if modulation:
            scale, shift = (_enlarged_rows(part, x, first, last) for part in modulation)
            rows = torch.addcmul(shift, rows, scale)
        return F.silu(rows, inplace=True)

    return read, x


def _statistics(norm: GroupNorm, x: Tensor, pixels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(mean, variance, weight, bias) of each channel, all (C,) float32: the norm's over all of x (1, C, H, W)."""
    groups, channels = norm.num_groups, x.shape[1]
    weight, bias = norm.weight.float(), norm.bias.float()
    count, mean, squares = 0, 0.0, 0.0  # per group; squares: summed squared distances from the mean
    for first, last in _strips(*x.shape[-2:], pixels):
        area = (last - first) * x.shape[-1]
        rows = x[:, :, first:last].float()
        # For the sake of the moments that it finds on the way: nothing else reads channels-last maps as fast.
        _, part_mean, scale = torch.native_group_norm(rows, weight, bias, 1, channels, area, groups, norm.eps)
        part_squares = (scale[0] ** -2 - norm.eps).clamp_min(0.0) * area
        # Chan et al. 1983: sums of squares would lose their digits where the mean is large.
        apart = part_mean[0] - mean
        squares = squares + part_squares + apart**2 * (area * count / (area + count))
        mean = mean + apart * (area / (area + count))
        count += area
    mean, variance = (values.repeat_interleave(channels // groups) for values in (mean, squares / count))
    return mean, variance, weight, bias


def _enlarged_rows(part: Tensor, x: Tensor, first: int, last: int) -> Tensor:
    """Rows first..last - 1 of `part` (1, C, h, w) enlarged to the sides of x, whole multiples, by repeating pixels."""
    factor = x.shape[-2] // part.shape[-2]
    top, bottom = first // factor, -(-last // factor)
    size = (bottom - top) * factor, x.shape[-1]
    enlarged = F.interpolate(part[:, :, top:bottom], size, mode="nearest")
    return enlarged[:, :, first - top * factor : last - top * factor]


def _empty(channels: int, height: int, width: int, like: Tensor) -> Tensor:
    """Channels-last, so that a strip of rows is one piece of memory."""
    shape = (1, channels, height, width)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _strips(height: int, width: int, pixels: int) -> Iterator[tuple[int, int]]:
    """(first row, row after the last) of strips of at most `pixels` pixels, of nearly equal height, one row at least.

    Nearly equal: a last one of a few rows would make a convolution pack its weights for small maps.
    """
    count = -(-height // max(1, pixels // width))
    for strip in range(count):
        yield height * strip // count, height * (strip + 1) // count
