"""The grid that a decoder paints on: pixels of its own size, or the latents of an autoencoder, of many sizes.

A grid is made for one run. It knows the shape of x_t, brings pictures and masks onto it, and makes pictures of x_0.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import is_whole
from ..config import AutoencoderConfig, DecoderConfig
from ..models.decoder import Autoencoder
from ..pictures.fitting import Picture, fit_mask, fit_picture
from ..pictures.resizing import thin_for_gradient
from ..runtime.device import overflow_advice
from ..runtime.estimates import (
    autoencoder_gradient_bytes,
    autoencoder_row_bytes,
    bytes_to_ask_for,
    does_not_fit,
    free_bytes,
    is_out_of_memory,
    rows_that_fit,
)
from ..runtime.placement import Placed
from ..types import PictureStart

MAX_SIDE = 8192  # pixels; a decoder's attention grows with the fourth power of it
# Pixels of a strip, where a picture is decoded in strips. Smaller ones hardly save memory, which the whole maps take,
# and their convolutions read more rows beside them.
STRIP = 2**14
SMALLEST_STRIP = 2**12


@dataclass(frozen=True)
class Grid:
    """Pixels of a decoder's own size. who: the run's name in messages. channels: of x_t. height, width: of the picture,
    in pixels."""

    who: str
    channels: int
    height: int
    width: int

    lossy = False  # whether a picture changes on its way to the grid and back

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of x_t."""
        return self.channels, self.height, self.width

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture."""
        return self.height, self.width

    def as_float32(self) -> Grid:
        """This grid, as exact as its files: for inversions."""
        return self

    def fit(self, image: Tensor, crop: str) -> Tensor:
        """IMAGE (B, H, W, C) of any size -> a picture (B, 3, height, width) in -1..1, on the CPU."""
        return fit_picture(self.who, image, self.size, crop)

    def fit_start(self, start: PictureStart, warn: Callable[[str], None]) -> Picture:
        """The picture to start from and its mask, on the CPU, of the picture's size."""
        x = self.fit(start.image, start.crop)
        if start.mask is None:
            return Picture(x)
        image_size = tuple(start.image.shape[1:3])
        return Picture(x, fit_mask(self.who, start.mask, image_size, self.size, start.crop, warn=warn))

    def encode(self, picture: Tensor) -> Tensor:
        """A picture (B, 3, height, width) in -1..1 -> its x_0 (B, C, h, w) float32 on the CPU."""
        return picture

    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 (B, C, h, w) -> pictures (B, 3, height, width) float32 on the CPU, about -1..1."""
        return torch.cat(list(self.decode_parts(x_0)))

    def decode_parts(self, x_0: Tensor) -> Iterator[Tensor]:
        """`decode`, some rows of the batch at a time."""
        yield x_0

    def mask(self, mask: Tensor) -> Tensor:
        """A picture's mask (B, 1, height, width), 1 = repaint -> how much of x_0 is painted, (B, 1, h, w) in 0..1."""
        return mask

    def paste(self, painted: Tensor, picture: Picture) -> Tensor:
        """`painted` (B, 3, height, width) with the very picture where its mask is 0."""
        return picture.paste(painted)

    @property
    def preview(self) -> Callable[[Tensor], Tensor] | None:
        """What makes a predicted x_0 visible, see `StepState`."""
        return None

    def guidance_networks(self) -> tuple[Placed, ...]:
        """The networks that `small_pixels` needs on the device beside the decoder's."""
        return ()

    def guidance_bytes(self, side: int) -> int:
        """Bytes that `small_pixels` takes for one row until its gradient is known."""
        return 0

    def small_pixels(self, x_0: Tensor, side: int) -> Tensor:
        """x_0 (B, C, h, w) -> pictures (B, 3, H, W) in about -1..1 of `side` px or more, which gradients pass."""
        return x_0


@dataclass(frozen=True)
class LatentGrid(Grid):
    """The latents of an autoencoder. height, width: of the picture."""

    config: AutoencoderConfig
    autoencoder: Placed[Autoencoder]

    lossy = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of x_t."""
        return self.channels, self.height // self.config.factor, self.width // self.config.factor

    def as_float32(self) -> LatentGrid:
        """This grid with its autoencoder in float32."""
        return replace(self, autoencoder=self.autoencoder.as_float32())

    def encode(self, picture: Tensor) -> Tensor:
        """See `Grid`. Loads the autoencoder, which may evict the decoder's network: before a run, not in it."""
        return torch.cat(list(self._run(picture, lambda network, x, strip: network.encode(x, strip))))

    def decode_parts(self, x_0: Tensor) -> Iterator[Tensor]:
        """See `Grid`. Loads the autoencoder. Raises FloatingPointError for NaN, MemoryError if one picture does not fit
        even in strips."""
        return self._run(x_0, lambda network, x, strip: network.decode(x, strip))

    def mask(self, mask: Tensor) -> Tensor:
        """Each latent pixel takes the highest value under it: what is to be repainted at all is repainted as a whole,
        and what is known is pasted in pixels in the end."""
        return F.max_pool2d(mask, self.config.factor)

    def paste(self, painted: Tensor, picture: Picture) -> Tensor:
        """As for pixels, and mixed by the mask's grey: painting has not mixed the pixels themselves."""
        return picture.paste(painted.clamp(-1.0, 1.0), mix=True)

    @property
    def preview(self) -> Callable[[Tensor], Tensor] | None:
        """A linear map of the latents' channels to colours, at the latents' size."""
        return lambda x_0: show_latents(x_0, colours_of(self.autoencoder, self.config))

    def guidance_networks(self) -> tuple[Placed, ...]:
        """The autoencoder with weights that gradients pass."""
        return (self.autoencoder.unpacked(),)

    def guidance_bytes(self, side: int) -> int:
        """See `Grid`."""
        _, height, width = self.shape
        height, width = self._small(side, height, width)
        factor, itemsize = self.config.factor, self.autoencoder.dtype.itemsize
        return autoencoder_gradient_bytes(self.config, height * factor, width * factor, itemsize)

    def small_pixels(self, x_0: Tensor, side: int) -> Tensor:
        """Decodes thinned latents: a whole decode a step, with its gradient, would take longer than the step."""
        placed = self.autoencoder.unpacked()
        small = self._small(side, *x_0.shape[-2:])
        return placed.read().decode(thin_for_gradient(x_0.to(placed.device), small))

    def _small(self, side: int, height: int, width: int) -> tuple[int, int]:
        """The sides of latents that decode to `side` px at the shorter one, if theirs are larger."""
        shrink = min(1.0, math.ceil(side / self.config.factor) / min(height, width))
        return max(1, round(height * shrink)), max(1, round(width * shrink))

    def _run(self, x: Tensor, apply: Callable[[Autoencoder, Tensor, int | None], Tensor]) -> Iterator[Tensor]:
        """`apply(network, rows, strip)` over a batch on the CPU, in as many parts as memory asks for."""
        placed, device = self.autoencoder, self.autoencoder.device
        row_bytes = autoencoder_row_bytes(self.config, self.height, self.width, placed.dtype.itemsize)
        network = placed.on_device(need=bytes_to_ask_for(len(x), row_bytes))
        rows = rows_that_fit(device, row_bytes)
        strip = None if row_bytes <= free_bytes(device) // 2 else STRIP
        first = 0
        while first < len(x):
            try:
                part = apply(network, x[first : first + rows].to(device), strip).cpu()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if rows == 1 and strip is not None and strip <= SMALLEST_STRIP:
                    raise MemoryError(does_not_fit(self.who, placed.dtype, device)) from error
                if rows == 1:
                    strip = STRIP if strip is None else strip // 4
                rows = 1
                continue
            if not part.isfinite().all():
                advice = overflow_advice(placed.dtype)
                raise FloatingPointError(f"{self.who}: the autoencoder makes NaN or infinity {advice}")
            first += len(part)
            yield part


def resolve_grid(
    who: str,
    config: DecoderConfig,
    autoencoder: Placed[Autoencoder] | None,
    width: int | None,
    height: int | None,
    x_T: Tensor | None,
    warn: Callable[[str], None],
) -> Grid:
    """The grid of a run. width, height: pixels of the picture, None as the decoder was trained. x_T: the start noise
    where one is given, which has a size of its own.

    Latents of a size that the decoder's levels cannot halve are rounded up, as warned. Raises ValueError for a size
    that is none or not x_T's, for another size than a pixel decoder's own, and for an x_T that this decoder cannot
    paint on.
    """
    for name, side in (("width", width), ("height", height)):
        if side is not None and (not is_whole(side) or not 1 <= side <= MAX_SIDE):
            raise ValueError(
                f"{who}: {name} must be a whole number of pixels from 1 to {MAX_SIDE}, or 0 on a node for the model's "
                f"own, got {side!r}"
            )
    latent = config.autoencoder
    factor = 1 if latent is None else latent.factor
    own = config.unet.image_size * factor
    if x_T is not None:
        _check_given(who, config, x_T)
        given = x_T.shape[3] * factor, x_T.shape[2] * factor
    if latent is None:
        if (width or own, height or own) != (own, own):
            raise ValueError(
                f"{who}: this decoder paints {own} x {own} pixels and no other size, got {width or own} x "
                f"{height or own}; set width and height to 0, and enlarge the picture by the upsamplers"
            )
        return Grid(who, config.channels, own, own)
    if autoencoder is None:
        raise ValueError(
            f"{who}: the decoder {config.decoder_id} paints latents, but it was opened without its autoencoder; open "
            "it with autoencoder=Placed(...)"
        )
    step = factor * config.unet.side_multiple
    asked = (width or own, height or own) if x_T is None else (width or given[0], height or given[1])
    size = tuple(-(-side // step) * step for side in asked)
    if x_T is not None and size != given:
        raise ValueError(
            f"{who}: width {asked[0]} and height {asked[1]} do not go with the linked noise, which is one for "
            f"{given[0]} x {given[1]} pixels; set both to 0, or make the noise at that size"
        )
    if size != asked:
        warn(
            f"{who}: this decoder paints sides of multiples of {step} pixels: {size[0]} x {size[1]} instead of "
            f"{asked[0]} x {asked[1]}"
        )
    return LatentGrid(who, config.channels, size[1], size[0], latent, autoencoder)


def _check_given(who: str, config: DecoderConfig, x_T: Tensor) -> None:
    channels, *sides = x_T.shape[1:]
    if config.autoencoder is None:
        side = config.unet.image_size
        fits, wanted = sides == [side, side], f"{side} x {side}"
    else:
        step = config.unet.side_multiple
        fits, wanted = not any(side % step for side in sides), f"latents of sides that are multiples of {step},"
    if channels != config.channels or not fits:
        raise ValueError(
            f"{who}: noise must be {wanted} with {config.channels} channels for this decoder, got {tuple(sides)} with "
            f"{channels}; invert the picture with the decoder that paints it"
        )


# (C + 1, 3): the colours of each latent channel, and of none of them. Fitted where a preview is first asked for.
_colours: weakref.WeakKeyDictionary[Placed, Tensor] = weakref.WeakKeyDictionary()


def colours_of(autoencoder: Placed[Autoencoder], config: AutoencoderConfig) -> Tensor:
    """The linear map from latents to colours that fits an autoencoder best: (C + 1, 3) float32 on the CPU.

    Least squares over its own decodes of a few pictures of coloured patches, each latent pixel against the mean of the
    pixels that it became.
    """
    if autoencoder not in _colours:
        _colours[autoencoder] = _fit_colours(autoencoder.unpacked(), config)
    return _colours[autoencoder]


def show_latents(x_0: Tensor, colours: Tensor) -> Tensor:
    """Latents (B, C, h, w) -> (B, 3, h, w) float32 by `colours_of`."""
    colours = colours.to(x_0.device)
    return torch.einsum("bchw,cd->bdhw", x_0.float(), colours[:-1]) + colours[-1][:, None, None]


@torch.no_grad()
def _fit_colours(placed: Placed[Autoencoder], config: AutoencoderConfig) -> Tensor:
    kept = placed.loaded
    network = placed.read()  # not on the device: the decoder's network, which is running, stays where it is
    generator = torch.Generator().manual_seed(0)
    side = 8 * config.factor
    # Patches large and small, from smooth to sharp, as pictures have them.
    small = [torch.rand(2, 3, patches, patches, generator=generator) * 2 - 1 for patches in (2, 5, 8)]
    modes = ({"mode": "bicubic"}, {"mode": "bilinear"}, {"mode": "nearest"})
    pictures = torch.cat([F.interpolate(x, (side, side), **mode) for x, mode in zip(small, modes, strict=True)])
    where = network.post_quant_conv.bias.device
    latents, shown = [], []
    for picture in pictures.clamp(-1, 1).split(2):
        latent = network.encode(picture.to(where))
        shown.append(F.avg_pool2d(network.decode(latent), config.factor).clamp(-1.0, 1.0).cpu())
        latents.append(latent.cpu())
    if not kept:
        placed.unload()
    rows = torch.cat(latents).movedim(1, -1).flatten(0, 2).double()  # (n, C)
    rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
    targets = torch.cat(shown).movedim(1, -1).flatten(0, 2).double()
    return torch.linalg.lstsq(rows, targets).solution.float()
