"""Pictures people bring, of any size and kind, as a decoder reads them; and masks that follow their picture's crop."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..types import expand_rows, image_to_model
from .resizing import resize_bicubic

CROPS = ("center", "squash")


@dataclass(frozen=True)
class Picture:
    """What image to image and inpainting start from.

    x: (B, 3, H, W) float32 in -1..1. mask: (B, 1, H, W) float32, 1 = repaint, 0 = keep; None repaints everything.
    """

    x: Tensor
    mask: Tensor | None = None

    def sizes(self) -> dict[str, int]:
        """Batch sizes by input name."""
        return {"image": len(self.x)} | ({} if self.mask is None else {"mask": len(self.mask)})

    def rows(self, rows: slice, batch: int) -> tuple[Tensor, Tensor | None]:
        """(x, mask) of the given rows of `batch`."""
        mask = None if self.mask is None else expand_rows(self.mask, batch)[rows]
        return expand_rows(self.x, batch)[rows], mask

    def paste(self, painted: Tensor, *, mix: bool = False) -> Tensor:
        """`painted` (B, 3, H, W) with exactly this picture where the mask is 0. mix: a mixture of both where it is
        between 0 and 1, for what was not mixed while it was painted."""
        if self.mask is None:
            return painted
        known, mask = self.rows(slice(None), len(painted))
        return torch.where(mask == 0.0, known, torch.lerp(known, painted, mask) if mix else painted)


def fit_picture(who: str, image: Tensor, size: tuple[int, int], crop: str = "center") -> Tensor:
    """IMAGE (B, H, W, C) of any size -> (B, 3, *size) float32 in -1..1. size: (height, width).

    crop: "center" cuts the middle out, in the aspect of `size`, "squash" scales both sides. Alpha is flattened on
    white, grey repeated. Raises ValueError for what is no picture.
    """
    check_crop(who, crop)
    if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        shape = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"{who}: image must be (B, H, W, C) with 1, 3 or 4 channels and no side of 0, got {shape}")
    if image.dtype == torch.uint8:  # clamped to 1 below it would be white
        raise ValueError(f"{who}: image must hold numbers in 0..1, got uint8; divide by 255")
    height, width = image.shape[1:3]
    kept = image[(slice(None), *crop_window(height, width, crop, size))]
    # Row by row: a picture of 8000 px needs some gigabytes on the way.
    rows = [resize_bicubic(image_to_model(row.cpu().clamp(0.0, 1.0)), size).clamp(-1.0, 1.0) for row in kept.split(1)]
    x = torch.cat(rows)
    if not x.isfinite().all():
        raise ValueError(f"{who}: the image holds NaN; save it again or load another one")
    return x


def fit_mask(
    who: str,
    mask: Tensor,
    image_size: tuple[int, int],
    size: tuple[int, int],
    crop: str = "center",
    *,
    warn: Callable[[str], None] = warnings.warn,
) -> Tensor:
    """MASK (B, H, W) in 0..1 for an image of image_size (H, W) -> (B, 1, *size), cropped as the image is.

    Averaged over areas, so that what is wholly kept stays 0. Another size than the image's is resized with it.
    Raises ValueError for another aspect; warns if there is nothing to repaint.
    """
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 3) or 0 in mask.shape:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"{who}: mask must be (B, H, W) with no side of 0, got {shape}")
    mask = mask.view(-1, *mask.shape[-2:]).float().cpu()
    if not mask.isfinite().all():
        raise ValueError(f"{who}: the mask holds NaN; save it again or load another one")
    empty = not (mask > 0).any()
    (height, width), (image_height, image_width) = mask.shape[1:], image_size
    # One pixel of rounding in the smaller one's shorter side is the same aspect.
    if abs(height * image_width - width * image_height) > max(image_height, image_width):
        hint = "; it is empty, as Load Image gives it for a picture without alpha: draw one first" if empty else ""
        raise ValueError(
            f"{who}: the mask is {width} x {height} pixels, the image {image_width} x {image_height}: a mask must "
            f"have its image's aspect{hint or '; make it from the same picture'}"
        )
    if empty:
        warn(f"{who}: the mask is empty, so nothing is repainted; 1 (white) marks what to repaint")
    kept = mask.clamp(0.0, 1.0)[(slice(None), None, *crop_window(height, width, crop, size))]
    return F.interpolate(kept, size, mode="area")


def check_crop(who: str, crop: str) -> None:
    """Raises ValueError for what is none of CROPS."""
    if crop not in CROPS:
        raise ValueError(f"{who}: crop {crop!r} is unknown; choose one of {', '.join(CROPS)}")


def crop_window(height: int, width: int, crop: str, size: tuple[int, int] = (1, 1)) -> tuple[slice, slice]:
    """What `crop` keeps for a picture of `size` (height, width), whose aspect alone counts, as slices of rows and
    columns: everything, where the aspect is the same."""
    if crop == "squash":
        return slice(None), slice(None)
    tall, wide = size
    rows = min(height, max(1, round(width * tall / wide)))
    columns = min(width, max(1, round(height * wide / tall)))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)
