"""Letters in pictures: a font that has them, lines that fit. Pillow only, so that torch-free rooms may use it too."""

from __future__ import annotations

import logging
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
_NO_LETTER = "\U0010ffff"  # no font has it
_log = logging.getLogger("comfyui_unclip")
_ELLIPSIS = "…"  # beyond Latin, and in the font all the same


def font_for(text: str, size: int) -> FreeTypeFont:
    """A font of `size` pixels that has the letters of `text`, or of those on this machine the one that lacks fewest."""
    wide = "".join(sorted({letter for letter in text if ord(letter) > _LATIN and letter != _ELLIPSIS}))
    return _load(wide, size)


@lru_cache(maxsize=32)
def _load(wide: str, size: int) -> FreeTypeFont:
    from PIL import ImageFont

    best = ImageFont.load_default(size)
    lacking = sum(not has(best, letter) for letter in wide)
    for name in _WIDE_FONTS if lacking else ():
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        missing = sum(not has(font, letter) for letter in wide)
        if missing < lacking:
            best, lacking = font, missing
        if not lacking:
            break
    if lacking:
        _log.warning(
            "no font here has the letters %s: pictures show ? in their place; install one, such as fonts-noto-cjk",
            "".join(letter for letter in wide if not has(best, letter))[:20],
        )
    return best


def has(font: FreeTypeFont, letter: str) -> bool:
    """Whether the font can draw a letter, rather than the box that stands for one that it lacks."""
    if letter.isspace() or ord(letter) <= _LATIN:
        return True
    drawn, box = (font.getmask(one) for one in (letter, _NO_LETTER))
    return (drawn.size, bytes(drawn)) != (box.size, bytes(box))


def drawable(font: FreeTypeFont, text: str) -> str:
    """The text with a question mark for every letter that would be drawn as an empty box."""
    return "".join(letter if has(font, letter) else "?" for letter in text)


def width_of(font: FreeTypeFont, text: str) -> int:
    """Pixels that `text` takes on a line."""
    return int(font.getlength(text)) + 1


def cut(font: FreeTypeFont, text: str, width: int) -> str:
    """`text`, shortened with an ellipsis until it fits `width` pixels."""
    text = drawable(font, text)
    if width_of(font, text) <= width:
        return text
    while text and width_of(font, text + "…") > width:
        text = text[:-1]
    return text + "…"


def wrapped(font: FreeTypeFont, text: str, width: int, most: int = 4) -> list[str]:
    """The text on at most `most` lines of `width` pixels, cut where it must be; never empty."""
    lines: list[str] = []
    for word in _words(drawable(font, text)):
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
