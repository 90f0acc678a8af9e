"""Pictures from strangers: what would cost too much is refused before it is decoded, and named."""

import io
import struct
import time
import zlib

import pytest
from PIL import Image

from comfyui_unclip.unclip_core.pictures import opening
from comfyui_unclip.unclip_core.pictures.opening import BadPicture, TooLarge, frames, opened


def png(width, height, rows=b""):
    """A PNG that says it is so large, with these bytes for pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def saved(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def many_passes(count, side=4000):
    """A progressive JPEG whose last scan comes again and again."""
    whole = saved(Image.new("L", (side, side)), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


STILL = Image.effect_noise((40, 30), 60)
BOMBS = {
    "a PNG of 100,000 x 100,000": png(100_000, 100_000),
    "a PNG of 9,000 x 9,000": png(9_000, 9_000),
    "a TIFF of 60,000 x 60,000": saved(STILL, "TIFF", tiffinfo={})
    .replace(struct.pack("<HHIHH", 256, 4, 1, 40, 0), struct.pack("<HHII", 256, 4, 1, 60_000))
    .replace(struct.pack("<HHIHH", 257, 4, 1, 30, 0), struct.pack("<HHII", 257, 4, 1, 60_000)),
    "a JPEG of 2,000 passes": many_passes(2_000),
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_before_it_is_decoded(content, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    start = time.process_time()
    with pytest.raises(BadPicture, match=r"^x: ([\d,]+ pixels, more|a JPEG of more passes)") as caught:
        opened(io.BytesIO(content), "x").__enter__()
    assert time.process_time() - start < 1 and len(content) < 2_000_000
    assert isinstance(caught.value, TooLarge) == ("passes" not in str(caught.value))


def test_frames_count_together_and_stop_before_the_one_too_many(monkeypatch):
    colours = [Image.new("P", (64, 64), index) for index in range(40)]
    content = saved(colours[0], "GIF", save_all=True, append_images=colours[1:], optimize=False)
    for limit, value in (("MAX_PIXELS", 64 * 64 * 10), ("MAX_FRAMES", 10)):
        monkeypatch.setattr(opening, limit, value)
        seen = []
        with pytest.raises(BadPicture, match=r"^x: .*frames"), opened(io.BytesIO(content), "x") as file:
            seen += (frame.tobytes() for frame in frames(file, "x"))
        assert len(seen) == 10
        monkeypatch.undo()
    with opened(io.BytesIO(content), "x") as file:
        assert sum(1 for _ in frames(file, "x")) == 40


@pytest.mark.parametrize("kind", [*opening.FORMATS, "PPM", "TGA", "ICO", "PCX"])
def test_what_people_load_is_read_and_nothing_else(kind):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    content = saved(STILL.convert("RGB"), kind)
    if kind in opening.FORMATS:
        with opened(io.BytesIO(content), "x") as file:
            assert file.convert("RGB").size == (40, 30)
        return
    with pytest.raises(BadPicture, match="no picture that can be read; save it as PNG"):
        opened(io.BytesIO(content), "x").__enter__()


@pytest.mark.parametrize("kind", opening.FORMATS)
def test_whatever_a_reader_stumbles_over_names_the_file(kind):
    """Bytes at every place of a file changed: a picture, or a refusal with name and fix."""
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    whole = saved(STILL.convert("RGB"), kind)
    refused = 0
    for place in range(0, len(whole), max(1, len(whole) // 150)):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        try:
            with opened(io.BytesIO(bytes(damaged)), "some.file") as file:
                for frame in frames(file, "some.file"):
                    frame.convert("RGB")
        except BadPicture as error:
            refused += 1
            assert str(error).startswith("some.file: ") and "; " in str(error) and str(error).isprintable()
    assert refused
