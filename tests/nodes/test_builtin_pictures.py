"""Load Image, Save Image and their kin: files, masks, metadata, folders, bad files. What the editor's other nodes
compute is held against a real ComfyUI in test_core_nodes.py."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from comfyui_unclip.nodes.builtin import BUILTIN_CLASS_MAPPINGS as NODES
from comfyui_unclip.nodes.host import LocalHost, use_host
from comfyui_unclip.unclip_core.pictures import opening
from comfyui_unclip.workflows.server.app import editor_host


@pytest.fixture
def host(tmp_path):
    (tmp_path / "input").mkdir()
    with use_host(LocalHost(tmp_path / "out", tmp_path / "input")) as host:
        yield host
    host.close()


def save(images, prefix="unclip", **hidden):
    return NODES["SaveImage"]().save_images(images=images, filename_prefix=prefix, **hidden)["ui"]["images"]


def names(entries):
    return [f"{entry['subfolder']}/{entry['filename']}".lstrip("/") for entry in entries]


def test_values_are_truncated_to_bytes_and_clipped(host):
    image = torch.tensor([0.999, 0.5, -0.2, 1.5, 0.0, 1.0]).view(1, 1, 2, 3)
    (name,) = names(save(image))
    pixels = np.asarray(Image.open(host.folder("output") / name)).reshape(-1).tolist()
    assert pixels == [254, 127, 0, 255, 0, 255]


def test_names_count_on_from_what_is_there_and_batches_number_on(host):
    folder = host.folder("output")
    folder.mkdir()
    for name in ("unclip_00007_.png", "unclip_00003_.png", "unclip_x_.png", "other_00050_.png", "unclip_00099.png"):
        (folder / name).touch()
    assert names(save(torch.zeros(2, 4, 4, 3))) == ["unclip_00008_.png", "unclip_00009_.png"]


def test_prefix_variables_and_subfolders(host):
    images = torch.zeros(2, 5, 9, 3)
    assert names(save(images, "cards/%width%x%height%-%batch_num%")) == [
        "cards/9x5-0_00001_.png",
        "cards/9x5-1_00002_.png",
    ]
    assert (host.folder("output") / "cards" / "9x5-1_00002_.png").is_file()


@pytest.mark.parametrize("prefix", ["../escaped", "/tmp/escaped", "a/../../escaped", "..\\escaped"])
def test_a_prefix_never_leaves_the_output_folder(host, tmp_path, prefix):
    with pytest.raises(ValueError, match="leads out of the folder"):
        save(torch.zeros(1, 4, 4, 3), prefix)
    assert not list(tmp_path.rglob("*escaped*"))


def test_metadata_is_what_the_editor_reads_back(host):
    prompt, workflow = {"1": {"class_type": "X", "inputs": {"text": "夜空"}}}, {"nodes": []}
    (name,) = names(save(torch.zeros(1, 4, 4, 3), prompt=prompt, extra_pnginfo={"workflow": workflow}))
    text = Image.open(host.folder("output") / name).text
    assert {key: json.loads(value) for key, value in text.items()} == {"prompt": prompt, "workflow": workflow}


def test_a_failed_write_leaves_nothing(host, monkeypatch):
    def full(self, path, **options):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        save(torch.zeros(1, 4, 4, 3))
    assert list(host.folder("output").iterdir()) == []


def test_previews_go_to_the_temporary_folder_under_a_random_name(host):
    first, second = (
        NODES["PreviewImage"]().save_images(images=torch.zeros(1, 4, 4, 3))["ui"]["images"][0] for _ in "ab"
    )
    assert first["type"] == "temp" and first["filename"] != second["filename"]
    assert (host.folder("temp") / first["filename"]).is_file() and not host.folder("output").exists()


def load(picture, host, name="picture.png", **options):
    picture.save(host.folder("input") / name, **options)
    return NODES["LoadImage"]().load_image(image=name)


def test_a_picture_comes_as_floats_without_a_mask(host):
    image, mask = load(Image.new("RGB", (5, 3), (255, 51, 0)), host)
    assert image.shape == (1, 3, 5, 3) and image.dtype == torch.float32
    assert image[0, 0, 0].tolist() == pytest.approx([1.0, 0.2, 0.0])
    assert mask.shape == (1, 64, 64) and not mask.any()


def test_the_mask_is_one_where_transparent(host):
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    picture.putpixel((1, 0), (255, 0, 0, 51))
    image, mask = load(picture, host)
    assert mask[0, 0].tolist() == pytest.approx([0.0, 0.8]) and image.shape[-1] == 3


def test_a_palettes_transparency_counts(host):
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putpixel((1, 0), 1)
    assert load(picture, host, transparency=1)[1][0, 0].tolist() == [0.0, 1.0]


def test_exif_orientation_is_applied(host):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image, _ = load(Image.new("RGB", (5, 3)), host, "turned.jpg", exif=exif)
    assert image.shape == (1, 5, 3, 3)


def test_frames_become_a_batch(host):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
    image, mask = load(frames[0], host, "moving.gif", save_all=True, append_images=frames[1:])
    assert image.shape == (3, 4, 4, 3) and mask.shape[0] == 3
    assert image[:, 0, 0].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(("channel", "expected"), [("alpha", 0.8), ("red", 1.0), ("green", 0.4), ("blue", 0.0)])
def test_load_image_mask_takes_one_channel_and_inverts_alpha(host, channel, expected):
    Image.new("RGBA", (2, 3), (255, 102, 0, 51)).save(host.folder("input") / "m.png")
    (mask,) = NODES["LoadImageMask"]().load_image(image="m.png", channel=channel)
    assert mask.shape == (1, 3, 2) and mask[0, 0, 0].item() == pytest.approx(expected)


def test_a_grey_pictures_channels_are_all_the_same(host):
    Image.new("L", (2, 2), 51).save(host.folder("input") / "grey.png")
    for channel, expected in (("red", 0.2), ("blue", 0.2), ("alpha", 0.0)):
        (mask,) = NODES["LoadImageMask"]().load_image(image="grey.png", channel=channel)
        assert mask.mean().item() == pytest.approx(expected)


def test_pictures_of_the_output_folder_can_be_named(host):
    (name,) = names(save(torch.ones(1, 4, 6, 3)))
    image, _ = NODES["LoadImage"]().load_image(image=f"{name} [output]")
    assert image.shape == (1, 4, 6, 3) and image.min() == 1.0


def test_what_is_offered_and_what_is_refused(host, tmp_path):
    Image.new("RGB", (2, 2)).save(host.folder("input") / "b.png")
    (host.folder("input") / "notes.txt").write_text("x")
    assert NODES["LoadImage"].INPUT_TYPES()["required"]["image"][0] == ["b.png"]
    (tmp_path / "secret.png").touch()
    assert "leads out of the folder" in NODES["LoadImage"].VALIDATE_INPUTS(image="../secret.png")
    assert "there is no picture" in NODES["LoadImage"].VALIDATE_INPUTS(image="none.png")
    assert NODES["LoadImage"].VALIDATE_INPUTS(image="b.png") is True
    assert NODES["LoadImage"].VALIDATE_INPUTS() is True


def test_links_of_the_user_are_followed_but_not_in_the_editor(host, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "album").mkdir()
    Image.new("RGB", (2, 3), (255, 0, 0)).save(elsewhere / "a.png")
    (elsewhere / "secret.png").write_bytes((elsewhere / "a.png").read_bytes())
    host.folder("output").mkdir()
    (host.folder("input") / "one.png").symlink_to(elsewhere / "a.png")
    (host.folder("input") / "album").symlink_to(elsewhere / "album")
    (host.folder("output") / "album").symlink_to(elsewhere / "album")
    load = NODES["LoadImage"]
    saved = names(save(torch.ones(1, 4, 6, 3), "album/x"))
    assert saved == ["album/x_00001_.png"] and (elsewhere / "album" / "x_00001_.png").is_file()
    linked = ("one.png", f"{saved[0]} [output]", saved[0])
    first = [load.IS_CHANGED(image=name) for name in linked]
    for name in linked:
        assert load.VALIDATE_INPUTS(image=name) is True
        assert load().load_image(image=name)[0].shape[0] == 1
    assert all(first) and first[1] == first[2]
    # What is written decides what `..` means, not where a link leads.
    assert "there is no picture" in load.VALIDATE_INPUTS(image="album/../secret.png")
    assert "leads out of the folder" in load.VALIDATE_INPUTS(image="album/../../secret.png")
    editor = editor_host(host.folder("output"), host.folder("input"))
    with use_host(editor):
        for name in linked:
            assert "leads out of the folder" in load.VALIDATE_INPUTS(image=name)
        assert "leads out of the folder" in NODES["SaveImage"].VALIDATE_INPUTS(filename_prefix="album/x")
        with pytest.raises(ValueError, match="leads out of the folder"):
            save(torch.ones(1, 4, 6, 3), "album/x")
    editor.close()


def refusal(name, host):
    with pytest.raises(ValueError) as caught:
        NODES["LoadImage"]().load_image(image=name)
    return str(caught.value)


def test_a_picture_that_is_none_or_a_bomb_is_named(host, monkeypatch):
    (host.folder("input") / "text.png").write_text("hello")
    assert refusal("text.png", host) == "text.png: no picture that can be read; save it as PNG"
    Image.new("RGB", (90, 90)).save(host.folder("input") / "big.png")
    monkeypatch.setattr(opening, "MAX_PIXELS", 8000)
    assert refusal("big.png", host) == "big.png: 8,100 pixels, more than 8,000; make it smaller"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    assert refusal("big.png", host) == "big.png: 8,100 pixels, more than 8,000; make it smaller"


def test_an_animation_that_fills_the_memory_is_refused(host, monkeypatch):
    frames = [Image.new("RGB", (64, 64), (30 * level, 0, 0)) for level in range(8)]
    frames[0].save(host.folder("input") / "long.gif", save_all=True, append_images=frames[1:])
    monkeypatch.setattr(opening, "MAX_PIXELS", 64 * 64 * 3)
    assert refusal("long.gif", host) == "long.gif: frames of more than 12,288 pixels; give a part of it"


def test_a_file_that_was_cut_off_is_loaded_as_far_as_it_goes(host):
    path = host.folder("input") / "cut.png"
    Image.effect_noise((64, 64), 80).convert("RGB").save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    image, _ = NODES["LoadImage"]().load_image(image="cut.png")
    assert image.shape == (1, 64, 64, 3) and image[0, :8].std() > 0.1 and image[0, -8:].std() == 0
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def scale(image, method="bilinear", width=0, height=0, crop="disabled"):
    node = NODES["ImageScale"]()
    return node.upscale(image=image, upscale_method=method, width=width, height=height, crop=crop)[0]


def test_scaling_follows_the_side_that_is_given():
    image = torch.rand(2, 10, 20, 3)
    assert scale(image) is image
    assert scale(image, width=7).shape == (2, 4, 7, 3)  # 3.5, to the even
    assert scale(image, height=5).shape == (2, 5, 10, 3)
    assert scale(image, width=1, height=1).shape == (2, 1, 1, 3)


def test_pictures_come_out_as_from_the_editors_nodes(host):
    """Values of ComfyUI 0.3.64's own nodes for these pictures: sums of IMAGE x ramp, and of MASK x ramp."""
    rng = np.random.default_rng(7)
    for mode, shape in (("L", (6, 5)), ("RGB", (6, 5, 3)), ("RGBA", (6, 5, 4)), ("LA", (6, 5, 2))):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels, mode).save(host.folder("input") / f"{mode}.png")
        image, mask = NODES["LoadImage"]().load_image(image=f"{mode}.png")
        scaled = scale(image, "lanczos", 9, 4, "center")
        assert [fingerprint(image), fingerprint(mask), fingerprint(scaled)] == pytest.approx(EDITORS_VALUES[mode])


def fingerprint(values):
    flat = values.double().flatten()
    return (flat * torch.linspace(0.5, 1.5, flat.numel(), dtype=torch.float64)).sum().item()


EDITORS_VALUES = {
    "L": [46.42557937910341, 0.0, 64.13238174795548],
    "RGB": [41.624125147659555, 0.0, 50.906634821297565],
    "RGBA": [44.31601757701653, 13.806422974528935, 48.883948289330135],
    "LA": [37.45637898838797, 14.782758515456628, 47.9317218773067],
}
