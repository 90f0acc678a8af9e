"""Opening a picture file that may be a stranger's: what it would cost is bounded before anything is decoded.

A picture's size stands in its header, and a few kilobytes can stand for gigabytes: a large area of one colour, a
thousand frames of it, or a JPEG of a thousand passes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ..texts import one_line

if TYPE_CHECKING:
    from PIL.Image import Image

# What people load. Pillow's other readers are rarely used, and rarely looked at.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_PIXELS = 2**26  # of all frames together, 8192 x 8192; as IMAGE and MASK 1.1 GB
MAX_FRAMES = 10_000
_MAX_PASSES = 2**31  # pixels times the passes of a progressive JPEG: 32 over the largest picture, 10 are usual


class BadPicture(ValueError):
    """A file that is no picture, or none that is decoded. The message has its name and the fix, if it has a name."""

    def __init__(self, reason: str, name: str = "", fix: str = "save it again") -> None:
        super().__init__(f"{name}: {reason}; {fix}" if name else reason)


class TooLarge(BadPicture):
    """A picture of so many pixels, which are too many."""

    def __init__(self, pixels: int, name: str = "") -> None:
        super().__init__(f"{pixels:,} pixels, more than {MAX_PIXELS:,}", name, "make it smaller")
        self.pixels = pixels


@contextlib.contextmanager
def opened(source: Path | BytesIO, name: str = "", checked: bool = True) -> Iterator[Image]:
    """The picture, not yet decoded, whose first frame is within bounds. name: what to call it in an error. checked:
    False leaves `check_size` to the caller, who wants less than all of it.

    Raises BadPicture, also for whatever Pillow's readers raise inside of the block.
    """
    from PIL import Image, UnidentifiedImageError

    Image.init()
    try:
        with Image.open(source, formats=[kind for kind in FORMATS if kind in Image.OPEN]) as file:
            if checked:
                check_size(file, name)
            yield file
    except BadPicture:
        raise
    except Image.DecompressionBombError as error:  # it says how many: "Image size (... pixels) exceeds limit ..."
        raise TooLarge(int(re.search(r"\d+", str(error))[0]), name) from None
    except UnidentifiedImageError:
        raise BadPicture("no picture that can be read", name, "save it as PNG") from None
    except Exception as error:  # whatever Pillow's readers stumble over
        reason = str(error).strip() or type(error).__name__
        raise BadPicture(f"damaged ({one_line(reason, 200)})", name) from error


def frames(file: Image, name: str = "") -> Iterator[Image]:
    """The frames of an open picture, each before it is decoded. Raises BadPicture once they are too many or too large
    together."""
    from PIL import ImageSequence

    pixels = 0
    for count, frame in enumerate(ImageSequence.Iterator(file), 1):
        pixels += frame.width * frame.height
        if pixels > MAX_PIXELS:
            raise BadPicture(f"frames of more than {MAX_PIXELS:,} pixels", name, "give a part of it")
        if count > MAX_FRAMES:
            raise BadPicture(f"more than {MAX_FRAMES:,} frames", name, "give a part of it")
        yield frame


def check_size(file: Image, name: str = "") -> None:
    """Raise BadPicture for an open picture that would take too much memory or time to decode."""
    pixels = file.width * file.height
    if pixels > MAX_PIXELS:
        raise TooLarge(pixels, name)
    if file.format in ("JPEG", "MPO") and pixels * _passes(file) > _MAX_PASSES:
        raise BadPicture("a JPEG of more passes than a picture needs", name)


def _passes(file: Image) -> int:
    """How often a JPEG goes over its pixels: the marks that begin a scan, which no pixel's bytes can hold."""
    stream, count, last = file.fp, 0, b""
    place = stream.tell()
    stream.seek(0)
    while block := stream.read(1 << 20):
        count += (last + block).count(b"\xff\xda")
        last = block[-1:]
    stream.seek(place)
    return count
