"""From bytes to 8-bit RGB: every odd kind of picture is read as it looks, or refused with the reason."""

import io

import numpy as np
import pytest
from PIL import Image

from comfyui_unclip.unclip_core.pictures import opening
from comfyui_unclip.unclip_core.training.sources.decode import BadPicture, decode, square


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(size=(80, 60), mode="RGB", left=(255, 0, 0), right=(0, 0, 255)):
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def colours(found):
    """The colours in the middle of the left and of the right half."""
    width, height = found.image.size
    return [found.image.getpixel((width * share // 4, height // 2)) for share in (1, 3)]


def near(found, left, right):
    return np.abs(np.array(colours(found)) - np.array([left, right])).max() <= 6


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_common_formats(kind):
    found = decode(encoded(halves(), kind))
    assert found.image.mode == "RGB" and (found.width, found.height) == (80, 60) and found.notes == ()
    assert near(found, (255, 0, 0), (0, 0, 255))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_cut_off(kind):
    levels = np.zeros((60, 80), np.uint16)
    levels[:, :40], levels[:, 40:] = 16384, 49152
    found = decode(encoded(Image.fromarray(levels), kind))
    assert found.notes == ("16 bits a channel",) and near(found, (64,) * 3, (191,) * 3)


def test_sixteen_bits_keep_their_orientation():
    levels = np.zeros((60, 80), np.uint16)
    levels[:, 40:] = 65535
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    found = decode(encoded(Image.fromarray(levels), "PNG", exif=exif))
    assert near(found, (255,) * 3, (0,) * 3)


def test_cmyk_is_read_as_it_looks():
    image = halves(mode="CMYK", left=(0, 255, 255, 0), right=(255, 255, 0, 0))
    found = decode(encoded(image, "JPEG", quality=95))
    assert found.notes == ("CMYK",) and near(found, (255, 0, 0), (0, 0, 255))


def test_what_is_transparent_is_white_also_in_palettes_and_by_a_key_colour():
    clear = Image.new("RGBA", (40, 40), (0, 255, 0, 0))
    clear.paste((255, 0, 0, 255), (0, 0, 20, 40))
    palette = clear.convert("P")
    keyed = halves((40, 40), right=(0, 255, 0))
    for content in (
        encoded(clear),
        encoded(clear.convert("LA").convert("RGBA"), "WEBP", lossless=True),
        encoded(palette, transparency=palette.getpixel((30, 0))),
        encoded(keyed, transparency=(0, 255, 0)),
    ):
        found = decode(content)
        assert found.notes == ("transparent",) and colours(found)[1] == (255, 255, 255)
    assert decode(encoded(halves().convert("RGBA"))).notes == ()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_used_and_said(kind):
    frames = [halves(), halves(left=(0, 255, 0))]
    found = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100))
    assert found.notes == ("2 frames, the first is used",) and near(found, (255, 0, 0), (0, 0, 255))


def test_a_picture_that_lies_on_its_side_is_put_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(halves().transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    for side in (None, 8):
        found = decode(content, side)
        assert (found.width, found.height) == (80, 60) and near(found, (255, 0, 0), (0, 0, 255))


def test_a_large_jpeg_is_decoded_with_no_more_pixels_than_are_wanted():
    ramp = np.linspace(0, 255, 1600).astype(np.uint8)
    image = Image.fromarray(np.stack([np.tile(ramp, (1200, 1)), np.tile(ramp[:1200, None], (1, 1600))] * 2, 2)[..., :3])
    content = encoded(image, "JPEG", quality=95)
    small, whole = decode(content, 64), decode(content)
    assert whole.image.size == (1600, 1200) and (small.width, small.height) == (1600, 1200)
    assert 128 <= min(small.image.size) <= 300
    difference = np.abs(np.asarray(square(small.image, 64), float) - np.asarray(square(whole.image, 64), float))
    assert difference.mean() < 1.0


def test_the_middle_square_is_cut_out():
    assert near(decode(encoded(square(halves((200, 60)), 32))), (255, 0, 0), (0, 0, 255))


BROKEN = {
    "empty": (b"", "empty file"),
    "text": (b"no picture at all", "no picture that can be read"),
    "cut png": (encoded(halves())[:-40], "damaged"),
    "cut jpeg": (encoded(Image.effect_noise((200, 200), 80), "JPEG")[:2000], "damaged"),
    "cut header": (encoded(halves(), "WEBP")[:20], "no picture|damaged"),
    "tiny": (encoded(Image.new("RGB", (300, 2))), "only 300 x 2 pixels"),
    "floating point": (encoded(Image.fromarray(np.ones((40, 40), np.float32)), "TIFF"), "pixels of kind F"),
    "32 bits": (encoded(Image.fromarray(np.full((40, 40), 1 << 20, np.int32)), "TIFF"), "pixels of kind I"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_picture_is_refused_with_the_reason(name):
    content, reason = BROKEN[name]
    with pytest.raises(BadPicture, match=reason):
        decode(content, 64)


def test_a_picture_that_would_fill_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(opening, "MAX_PIXELS", 1000)
    with pytest.raises(BadPicture, match="pixels, more than 1,000"):
        decode(encoded(halves()))


def test_no_broken_bytes_bring_anything_else():
    """Every prefix and many flipped bytes of several formats: a picture or BadPicture."""
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"):
        content = encoded(halves((20, 16)), kind)
        spoilt = [content[: len(content) * share // 20] for share in range(20)]
        for _ in range(40):
            flipped = bytearray(content)
            for place in rng.integers(0, len(content), 3):
                flipped[place] ^= int(rng.integers(1, 256))
            spoilt.append(bytes(flipped))
        for each in spoilt:
            try:
                assert decode(each, 8).image.mode == "RGB"
            except BadPicture as error:
                assert str(error)
