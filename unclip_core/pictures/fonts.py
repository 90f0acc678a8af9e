"""Letters in pictures: a font that has them, lines that fit. Pillow only, so that torch-free rooms may use it too."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

# Pillow's own font has Latin letters only; these are looked for on the machine when a text needs more.
_WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "DroidSansFallbackFull.ttf",
    "wqy-microhei.ttc",
    "msyh.ttc",
    "PingFang.ttc",
    "DejaVuSans.ttf",
)
_LATIN = 0x24F  # the last code point of Latin Extended-B
_FROM_HERE_ANY_BREAK = 0x2E7F  # Chinese and Japanese lines may break after any letter
_ELLIPSIS = "…"  # beyond Latin, and in the font all the same


def font_for(text: str, size: int) -> FreeTypeFont:
    """A font of `size` pixels that has the letters of `text`, as far as this machine has one."""
    return _load(any(ord(letter) > _LATIN and letter != _ELLIPSIS for letter in text), size)


@lru_cache(maxsize=32)
def _load(wide: bool, size: int) -> FreeTypeFont:
    from PIL import ImageFont

    for name in _WIDE_FONTS if wide else ():
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def width_of(font: FreeTypeFont, text: str) -> int:
    """Pixels that `text` takes on a line."""
    return int(font.getlength(text)) + 1


def cut(font: FreeTypeFont, text: str, width: int) -> str:
    """`text`, shortened with an ellipsis until it fits `width` pixels."""
    if width_of(font, text) <= width:
        return text
    while text and width_of(font, text + "…") > width:
        text = text[:-1]
    return text + "…"


def wrapped(font: FreeTypeFont, text: str, width: int, most: int = 4) -> list[str]:
    """The text on at most `most` lines of `width` pixels, cut where it must be; never empty."""
    lines: list[str] = []
    for word in _words(text):
        if lines and width_of(font, lines[-1] + word.rstrip()) <= width:
            lines[-1] += word
        else:
            lines.append(word)
    kept = [cut(font, line.rstrip(), width) for line in lines[:most]]
    if len(lines) > most:
        kept[-1] = cut(font, kept[-1] + "…", width)
    return kept or [""]


def _words(text: str) -> Sequence[str]:
    """Pieces after which a line may break."""
    pieces = [""]
    for letter in text:
        pieces[-1] += letter
        if letter == " " or ord(letter) > _FROM_HERE_ANY_BREAK:
            pieces.append("")
    return [piece for piece in pieces if piece]
