"""Training data from a folder of pictures and from WebDataset shards."""

import io
import random
import tarfile

import pytest
import torch
from PIL import Image

from comfyui_unclip.unclip_core.training.files import open_files


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(size=(80, 60)):
    """Red left half, blue right half."""
    image = Image.new("RGB", size, (255, 0, 0))
    image.paste((0, 0, 255), (size[0] // 2, 0, *size))
    return image


def sideways():
    """The same picture, stored turned, with the EXIF note that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn to the left
    return encoded(halves().transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)


FILES = {
    "a.png": encoded(halves()),
    "a.txt": "红色和蓝色\n\n  red and blue \n".encode(),
    "b.jpg": sideways(),
    "clear.png": encoded(Image.new("RGBA", (70, 70), (0, 255, 0, 0))),
    "clear.txt": "\ufeffnothing\n".encode(),
    "notes.md": b"no picture",
}


@pytest.fixture(params=["folder", "shards", "shards with ./"])
def data(request, tmp_path):
    if request.param == "folder":
        (tmp_path / "deep").mkdir()
        for name, content in FILES.items():
            (tmp_path / ("deep" if name[0] == "c" else "") / name).write_bytes(content)
        return open_files(str(tmp_path))
    prefix = "./some.dir/" if "./" in request.param else ""
    for shard, first in (("0.tar", "ab"), ("1.tar", "cn")):
        with tarfile.open(tmp_path / shard, "w") as tar:
            for name, content in FILES.items():
                if name[0] in first:
                    info = tarfile.TarInfo(prefix + name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return open_files(str(tmp_path / "*.tar") if prefix else str(tmp_path))


def is_colour(pixels, rgb):
    wanted = torch.tensor(rgb).view(3, 1, 1) * 2.0 - 1
    return (pixels - wanted).abs().max() < 0.1


def test_pictures_are_the_upright_middle_square_flattened_on_white(data):
    pictures = data.pictures([0, 1, 2])
    assert len(data) == 3 and pictures.shape == (3, 3, 64, 64) and pictures.dtype == torch.float32
    for picture in pictures[:2]:
        assert is_colour(picture[:, :, :28], (1, 0, 0)) and is_colour(picture[:, :, 36:], (0, 0, 1))
    assert (pictures[2] == 1).all()


def test_captions_are_lines_of_the_text_beside_and_may_be_missing(data):
    seen = {tuple(data.captions([0, 1, 2], random.Random(seed))) for seed in range(20)}
    assert seen == {("红色和蓝色", "", "nothing"), ("red and blue", "", "nothing")}


def test_rows_are_read_in_any_order_and_crops_by_the_generator(data):
    assert torch.equal(data.pictures([2, 0]), data.pictures([0, 1, 2])[[2, 0]])
    crops = data.crops([0, 0, 2], random.Random(3), 256, 64)
    assert crops.shape == (3, 3, 64, 64) and torch.equal(crops, data.crops([0, 0, 2], random.Random(3), 256, 64))
    assert not torch.equal(crops, data.crops([0, 0, 2], random.Random(4), 256, 64))
    whole = data.crops([0], random.Random(0), 64, 64)
    assert torch.equal(whole, data.pictures([0]))


def test_files_do_not_say_what_is_alike(data):
    assert data.alike(1) == [1]


def test_extra_parts_of_a_sample_are_left_alone(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("7.PNG", "7.seg.png", "7.cls", "8.txt"):
            content = encoded(halves()) if "png" in name.lower() else b"3"
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert len(open_files(str(tmp_path / "x.tar"))) == 1


def test_nothing_to_read_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("alone")
    for where in (tmp_path, tmp_path / "no*.tar", tmp_path / "missing"):
        with pytest.raises(ValueError, match=r"--data .*: no pictures found; give a folder of pictures"):
            open_files(str(where))
    (tmp_path / "bad.tar").write_bytes(b"this is no archive" * 100)
    with pytest.raises(ValueError, match=r"bad.tar: not an uncompressed .tar shard"):
        open_files(str(tmp_path / "bad.tar"))


def test_a_broken_sample_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(halves())[:60])
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    data = open_files(str(tmp_path))
    with pytest.raises(ValueError, match=r"a.png: not a picture that can be read"):
        data.pictures([0])
    with pytest.raises(ValueError, match=r"a.txt: not UTF-8 text"):
        data.captions([0], random.Random(0))
