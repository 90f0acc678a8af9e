"""Pictures as CLIP's image tower reads them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..pictures.fitting import check_crop
from ..types import check_image, image_to_model


def preprocess(
    image: Tensor, size: int, mean: tuple[float, ...], std: tuple[float, ...], crop: str = "center"
) -> Tensor:
    """IMAGE (B, H, W, C) in 0..1 -> (B, 3, size, size) normalised, as CLIP was trained.

    crop: "center" scales the short side to `size` and cuts the middle out; "squash" scales both sides. Bicubic,
    antialiased. Raises ValueError for another crop or what is no picture.
    """
    check_crop("CLIP Image Encode", crop)
    try:
        check_image(image)
    except ValueError as error:
        raise ValueError(f"CLIP Image Encode: {error}") from None
    if 0 in image.shape:
        raise ValueError(f"CLIP Image Encode: image is empty, shape {tuple(image.shape)}")
    if crop == "center":  # a strip of 8000 x 1 would become one of 512,000 x 64 on the way
        (top, height), (left, width) = (_middle(side, 4 * min(image.shape[1:3])) for side in image.shape[1:3])
        image = image[:, top : top + height, left : left + width]
    pixels = (image_to_model(image).clamp(-1.0, 1.0) + 1.0) * 0.5
    if not pixels.isfinite().all():
        raise ValueError("CLIP Image Encode: the image holds NaN; save it again or load another one")
    height, width = pixels.shape[-2:]
    if crop == "center":
        short = min(height, width)
        target = (int(size * height / short), int(size * width / short))  # rounded as torchvision does
    else:
        target = (size, size)
    if target != (height, width):
        pixels = F.interpolate(pixels, target, mode="bicubic", align_corners=False, antialias=True).clamp(0.0, 1.0)
    top, left = (round((side - size) / 2) for side in target)
    pixels = pixels[..., top : top + size, left : left + size]
    return (pixels - pixels.new_tensor(mean)[:, None, None]) / pixels.new_tensor(std)[:, None, None]


def _middle(side: int, most: int) -> tuple[int, int]:
    """(first, count) of at most `most` pixels in the middle of a side."""
    count = min(side, most)
    return (side - count) // 2, count
