"""From a picture's bytes to 8-bit RGB as a person sees it: upright, transparency on white, 16 bits scaled to 8."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from ...pictures.opening import BadPicture, check_size, opened

SMALLEST = 8  # pixels of a side; below that there is no picture to learn from
GAP = 2  # a JPEG is decoded at a half, quarter or eighth as long as this many times the wanted pixels are left


@dataclass(frozen=True)
class Decoded:
    """image: RGB. width, height: of the stored picture, upright. notes: what is special about it."""

    image: Image.Image
    width: int
    height: int
    notes: tuple[str, ...] = ()


def decode(content: bytes, side: int | None = None) -> Decoded:
    """The picture, all of it. side: at least so many pixels of its short side are wanted, not more; None: all.

    Raises BadPicture with the reason for what is empty, cut off, too small, or no picture that Pillow reads.
    """
    if not content:
        raise BadPicture("empty file")
    with warnings.catch_warnings(), opened(io.BytesIO(content), checked=False) as image:
        warnings.simplefilter("ignore")  # of odd EXIF; what cannot be read is an error
        return _decode(image, side)


def _decode(image: Image.Image, side: int | None) -> Decoded:
    width, height = image.size
    if image.getexif().get(0x0112) in (5, 6, 7, 8):  # stored lying on its side
        width, height = height, width
    if min(width, height) < SMALLEST:
        raise BadPicture(f"only {width} x {height} pixels")
    notes = [f"{image.n_frames} frames, the first is used"] if getattr(image, "n_frames", 1) > 1 else []
    if side is not None and image.format == "JPEG":
        share = GAP * side / min(image.size)
        image.draft(None, tuple(max(1, round(edge * share)) for edge in image.size))
    check_size(image)
    image.load()
    if image.mode.startswith(("I", "F")):
        image = _eight_bit(image)
        notes.append("16 bits a channel")
    elif image.mode == "CMYK":
        notes.append("CMYK")
    image = ImageOps.exif_transpose(image)
    if image.mode not in ("RGB", "L") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            notes.append("transparent")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return Decoded(image.convert("RGB"), width, height, tuple(notes))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey levels of 16 bits as 8; Pillow itself would cut off all above 255."""
    levels = np.asarray(image)
    if levels.dtype.kind == "f" or levels.min() < 0 or levels.max() > 65535:
        raise BadPicture(f"pixels of kind {image.mode}, from {levels.min():g} to {levels.max():g}; save it as PNG")
    exif = image.getexif()
    grey = Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if 0x0112 in exif:
        grey.getexif()[0x0112] = exif[0x0112]
    return grey


def square(image: Image.Image, side: int) -> Image.Image:
    """The middle square of a picture, `side` px, bicubic and antialiased."""
    return ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
