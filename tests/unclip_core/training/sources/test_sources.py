"""Folders, shards and embedding files as rows: nothing in them is fatal, nothing is passed over in silence."""

import contextlib
import dataclasses
import io
import json
import os
import random
import tarfile
import time

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_unclip.unclip_core.clip.model import Clip
from comfyui_unclip.unclip_core.training import embeddings
from comfyui_unclip.unclip_core.training.embeddings import image_embeddings
from comfyui_unclip.unclip_core.training.sources import pictures
from comfyui_unclip.unclip_core.training.sources.opening import open_data
from comfyui_unclip.unclip_core.training.survey import contact_sheet, report, survey


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(size=(80, 60)):
    """Red left half, blue right half."""
    image = Image.new("RGB", size, (255, 0, 0))
    image.paste((0, 0, 255), (size[0] // 2, 0, *size))
    return image


FILES = {
    "a.png": encoded(halves()),
    "a.TXT": "红色和蓝色\n\n  red and blue \n".encode(),
    "b.jpg": encoded(halves(), "JPEG", quality=95),
    "clear.png": encoded(Image.new("RGBA", (70, 70), (0, 255, 0, 0))),
    "clear.txt": "\ufeffnothing\n".encode(),
    "notes.md": b"no picture",
}


def write_tar(path, files):
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture(params=["folder", "shards", "shards with ./"])
def data(request, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    if request.param == "folder":
        (source / "deep").mkdir()
        for name, content in FILES.items():
            (source / ("deep" if name[0] == "c" else "") / name).write_bytes(content)
        return open_data(str(source), tmp_path / "cache")
    prefix = "./some.dir/" if "./" in request.param else ""
    for shard, first in (("0.tar", "ab"), ("1.tar", "cn")):
        write_tar(source / shard, {prefix + name: content for name, content in FILES.items() if name[0] in first})
    where = str(source / "{0..1}.tar") if prefix else str(source)
    return open_data(where, tmp_path / "cache")


def is_colour(pixels, rgb):
    wanted = torch.tensor(rgb).view(3, 1, 1) * 2.0 - 1
    return (pixels - wanted).abs().max() < 0.1


def test_pictures_are_the_upright_middle_square_flattened_on_white(data):
    for side in (64, 32):
        found = data.pictures([0, 1, 2], side)
        assert len(data) == 3 and found.shape == (3, 3, side, side) and found.dtype == torch.float32
        for picture in found[:2]:
            assert is_colour(picture[:, :, : 3 * side // 8], (1, 0, 0))
            assert is_colour(picture[:, :, 5 * side // 8 :], (0, 0, 1))
        assert (found[2] == 1).all()


def test_the_whole_picture_is_not_cut(data):
    whole = data.whole(0, 16)
    assert whole.shape == (1, 60, 80, 3) and whole.min() >= 0 and whole.max() <= 1


def test_captions_are_lines_of_the_text_beside_and_may_be_missing(data):
    seen = {tuple(data.captions([0, 1, 2], random.Random(seed))) for seed in range(20)}
    assert seen == {("红色和蓝色", "", "nothing"), ("red and blue", "", "nothing")}
    assert [data.all_captions(row) for row in range(3)] == [("红色和蓝色", "red and blue"), (), ("nothing",)]


def test_rows_are_read_in_any_order_and_crops_by_the_generator(data):
    assert torch.equal(data.pictures([2, 0]), data.pictures([0, 1, 2])[[2, 0]])
    crops = data.crops([0, 0, 2], random.Random(3), 256, 64)[0]
    assert crops.shape == (3, 3, 64, 64) and torch.equal(crops, data.crops([0, 0, 2], random.Random(3), 256, 64)[0])
    assert not torch.equal(crops, data.crops([0, 0, 2], random.Random(4), 256, 64)[0])
    assert torch.equal(data.crops([0], random.Random(0), 64, 64)[0], data.pictures([0]))


def test_without_room_for_a_cache_the_same_pixels_come_from_the_files(data, monkeypatch, caplog):
    kept, crops = data.pictures([0, 1, 2], 48), data.crops([1], random.Random(1), 256, 64)[0]
    monkeypatch.setattr(pictures, "FREE_SHARE", 0.0)
    again = pictures.PictureData(data.index, data.folder.parents[1] / "other")  # the first pass needs its squares
    assert torch.equal(again.pictures([0, 1, 2], 48), kept)
    assert torch.equal(again.crops([1], random.Random(1), 256, 64)[0], crops)
    assert "read from their files at every step, which is slower" in caplog.text


def test_the_first_pass_and_each_size_are_made_once(tmp_path, touched):
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(FILES[name])
    told = []
    data = open_data(str(tmp_path), tmp_path / "cache", progress=lambda *seen: told.append(seen))
    data.pictures([0], 32)
    assert told == [
        *(("read pictures", done, 2) for done in (1, 2)),
        *(("resize pictures to 32 px", done, 2) for done in (1, 2)),
    ]
    read = touched("open", tmp_path)
    again = open_data(str(tmp_path), tmp_path / "cache")
    assert torch.equal(again.pictures([0, 1], 32), data.pictures([0, 1], 32))
    assert not [path for path in read if path.endswith((".png", ".jpg"))]
    assert (again.identity, again.state) == (data.identity, data.state)
    os.utime(tmp_path / "b.jpg", (1, 1))  # written again
    newer = open_data(str(tmp_path), tmp_path / "cache")
    assert newer.identity == data.identity and newer.state != data.state
    (tmp_path / "c.png").write_bytes(FILES["a.png"])
    assert open_data(str(tmp_path), tmp_path / "cache").identity != data.identity


def test_many_processes_make_the_same_cache(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for i in range(70):
        Image.new("RGB", (20, 20), (3 * i, 0, 0)).save(source / f"{i:02}.png")
    (source / "03.png").write_bytes(b"")
    one, two = (open_data(str(source), tmp_path / str(workers), workers=workers) for workers in (1, 2))
    assert len(one) == 69 and one.seen == two.seen
    assert torch.equal(one.pictures(list(range(69))), two.pictures(list(range(69))))


def make_mess(folder):
    """A folder in which one picture of each kind is fine, and everything that people's folders have is not."""
    folder.mkdir()
    good = {"fine.png": FILES["a.png"], "fine.txt": b"a red star", "plain.jpg": FILES["b.jpg"]}
    bad = {
        "cut.jpg": encoded(Image.effect_noise((300, 300), 90), "JPEG")[:3000],
        "empty.png": b"",
        "text.png": b"<html>404</html>",
        "phone.heic": b"ftypheic",
        "._fine.png": b"AppleDouble",
        "plain.txt": b"\xff\xfe\x00",
        "lost.txt": b"a caption of a picture that is gone",
        "phone.txt": b"a caption of a picture that is named already",
    }
    for name, content in {**good, **bad}.items():
        (folder / name).write_bytes(content)
    levels = Image.fromarray(np.full((40, 40), 30000, np.uint16))
    levels.save(folder / "scan.png")
    (folder / "scan.txt").write_bytes("a grey square".encode("utf-16"))


def test_what_people_have_in_their_folders_is_listed_and_never_fatal(tmp_path):
    make_mess(tmp_path / "mess")
    data = open_data(str(tmp_path / "mess"), tmp_path / "cache")
    assert [data.sample(row).name for row in range(len(data))] == ["fine.png", "plain.jpg", "scan.png"]
    assert data.captions([0, 1, 2], random.Random(0)) == ["a red star", "", "a grey square"]
    skipped = dict(data.skipped())
    assert skipped.keys() == {"cut.jpg", "empty.png", "text.png", "phone.heic", "lost.txt"}
    assert skipped["empty.png"] == "empty file" and "convert it" in skipped["phone.heic"]
    assert skipped["lost.txt"] == "a caption without a picture"
    found = survey(data, "mess")
    assert found.rows == 3 and [name for name, _ in found.unread] == ["plain.jpg"] and found.no_caption == []
    text = report(found)
    for said in (
        "mess: 3 rows kept, 5 skipped",
        "skipped, empty file: 1 (empty.png)",
        "16 bits a channel: 1",
        "caption of plain.jpg is not UTF-8 text",
        "smaller than 64 px: 3 (they are enlarged)",
        "captions: 2, 5 different words",
    ):
        assert said in text, text


def test_the_survey_knows_what_a_clip_will_not_read(tmp_path, tiny_clip):
    (tmp_path / "a.png").write_bytes(FILES["a.png"])
    (tmp_path / "a.txt").write_text("a red snail\n" + "a red star on the sea " * 5)
    data = open_data(str(tmp_path), tmp_path / "cache")
    found = survey(data, "here", tiny_clip)
    assert found.unknown == {"snail": 1} and found.cut == 1 and found.captions == 2
    assert "does not know: 1 (snail 1)" in report(found) and "their ends are dropped: 1" in report(found)


def test_the_contact_sheet_shows_whole_pictures_beside_what_64_px_leave(tmp_path):
    Image.new("RGB", (400, 100), (0, 128, 0)).save(tmp_path / "wide.png")
    data = open_data(str(tmp_path), tmp_path / "cache")
    contact_sheet(data, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        left = sheet.crop((8, 8, 200, 200)).convert("RGB").getcolors(4096)
        right = sheet.crop((208, 8, 400, 200)).convert("RGB").getcolors(4096)
    assert dict((colour, count) for count, colour in left)[(0, 128, 0)] == 192 * 48
    assert right == [(192 * 192, (0, 128, 0))]


def test_metadata_files_speak_for_the_pictures_that_they_name(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a.png", "b.png", "deep/c.png", "d.png"):
        (tmp_path / name).write_bytes(FILES["a.png"])
    rows = [
        {"file_name": "a.png", "text": "one"},
        {"file_name": "deep/c.png", "caption": ["two", "three"]},
        {"file_name": "gone.png", "text": "four"},
        {"file_name": "b.png", "label": 3},
        {"file_name": "d.png", "text": None},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{broken\n[1]\n")
    (tmp_path / "d.txt").write_text("not asked: metadata comes first")
    data = open_data(str(tmp_path), tmp_path / "cache")
    assert [data.all_captions(row) for row in range(4)] == [("one",), (), (), ("two", "three")]
    assert dict(data.skipped()).keys() == {f"metadata.jsonl, line {line}" for line in (3, 4, 6, 7)}
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"one, with a comma"\ndeep/c.png,two\n')
    data = open_data(str(tmp_path), tmp_path / "cache")
    assert [data.all_captions(row) for row in (0, 2, 3)] == [
        ("one, with a comma",),
        ("not asked: metadata comes first",),
        ("two",),
    ]


def test_shards_give_what_is_whole(tmp_path):
    source = tmp_path / "shards"
    source.mkdir()
    samples = {
        f"{i}.{suffix}": content for i in range(9) for suffix, content in (("jpg", FILES["b.jpg"]), ("txt", b"x"))
    }
    write_tar(source / "good.tar", {"7.PNG": FILES["a.png"], "7.seg.png": b"3", "7.cls": b"3", "8.txt": b"alone"})
    write_tar(source / "json.tar", {"1.jpg": FILES["b.jpg"], "1.json": json.dumps({"caption": "said"}).encode()})
    write_tar(source / "cut.tar", samples)
    content = (source / "cut.tar").read_bytes()
    (source / "cut.tar").write_bytes(content[: len(content) // 2 + 700])
    (source / "bad.tar").write_bytes(b"this is no archive" * 100)
    data = open_data(str(source), tmp_path / "cache")
    names = [data.sample(row).name for row in range(len(data))]
    assert names[:1] != ["cut.tar: 8"] and "good.tar: 7" in names and "json.tar: 1" in names
    assert 2 <= sum(name.startswith("cut.tar") for name in names) < 9
    assert data.captions([names.index("json.tar: 1")], random.Random(0)) == ["said"]
    skipped = dict(data.skipped())
    assert (
        "not an uncompressed .tar shard" in skipped["bad.tar"] and "caption without a picture" in skipped["good.tar: 8"]
    )
    assert any("ends" in reason for name, reason in skipped.items() if name.startswith("cut.tar"))


def test_loose_pictures_beside_shards_are_read_too(tmp_path):
    write_tar(tmp_path / "0.tar", {"7.png": FILES["a.png"]})
    (tmp_path / "loose.png").write_bytes(FILES["a.png"])
    assert len(open_data(str(tmp_path), tmp_path / "cache")) == 2


def test_nothing_to_read_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("alone")
    absent = ": there is no"
    for where, why in ((tmp_path, ""), (tmp_path / "no*.tar", absent), (tmp_path / "missing", absent)):
        with pytest.raises(ValueError, match=rf"--data .*: no pictures found{why}.*; give a folder of pictures"):
            open_data(str(where), tmp_path / "cache")
    (tmp_path / "bad.tar").write_bytes(b"this is no archive" * 100)
    with pytest.raises(ValueError, match=r"no pictures found that can be read \(bad.tar: not an uncompressed"):
        open_data(str(tmp_path / "bad.tar"), tmp_path / "cache")
    with pytest.raises(ValueError, match="local disks only"):
        open_data("https://host/{0..3}.tar", tmp_path / "cache")


def test_a_picture_that_breaks_during_training_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(FILES["a.png"])
    data = open_data(str(tmp_path), tmp_path / "cache")
    (tmp_path / "a.png").write_bytes(FILES["a.png"][:60])
    with pytest.raises(ValueError, match=r"a.png: could be read before, now it cannot: damaged"):
        data.whole(0, 64)


def test_clip_sees_the_whole_picture_as_it_does_at_inference(tmp_path, tiny_clip):
    """A fine pattern that 64 px lose, on a strip whose middle square is what CLIP cuts out."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (300, 500, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    image = Image.fromarray(np.kron(rng.integers(0, 256, (30, 40, 3)), np.ones((40, 40, 1))).astype(np.uint8))
    image.save(tmp_path / "b.jpg", quality=95)
    data = open_data(str(tmp_path), tmp_path / "cache")
    found = image_embeddings(tiny_clip, data, tmp_path / "embeddings")
    for row, name in enumerate(("a.png", "b.jpg")):
        with Image.open(tmp_path / name) as opened:
            whole = torch.from_numpy(np.asarray(opened.convert("RGB")).copy())[None] / 255.0
        assert torch.cosine_similarity(tiny_clip.encode_image(whole).vector[0], found[row], dim=0) > 0.9995


def test_embeddings_go_on_where_they_were_killed(tmp_path, tiny_clip, monkeypatch):
    for i in range(6):
        Image.new("RGB", (70, 70), (40 * i, 0, 255 - 40 * i)).save(tmp_path / f"{i}.png")
    data = open_data(str(tmp_path), tmp_path / "cache")
    whole = image_embeddings(tiny_clip, data, tmp_path / "whole", batch=1)
    monkeypatch.setattr(embeddings, "SAVE_EVERY", 2)
    embed, seen = embeddings.embed_rows, []

    def killed(clip, data, rows, **options):
        seen.append(rows[0])
        if len(seen) == 6:
            raise KeyboardInterrupt
        return embed(clip, data, rows, **options)

    monkeypatch.setattr(embeddings, "embed_rows", killed)
    with pytest.raises(KeyboardInterrupt):
        image_embeddings(tiny_clip, data, tmp_path / "killed", batch=1)
    assert torch.equal(image_embeddings(tiny_clip, data, tmp_path / "killed", batch=1), whole)
    assert seen == [0, 1, 2, 3, 4, 5, 4, 5]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process")
def test_two_runs_that_need_the_same_embeddings_do_not_spoil_each_others(tmp_path, tiny_clip, monkeypatch):
    for i in range(6):
        Image.new("RGB", (70, 70), (40 * i, 0, 255 - 40 * i)).save(tmp_path / f"{i}.png")
    data = open_data(str(tmp_path), tmp_path / "cache")
    whole = image_embeddings(tiny_clip, data, tmp_path / "whole", batch=1)
    embed = embeddings.embed_rows

    def slow(*rows, **options):
        time.sleep(0.1)
        return embed(*rows, **options)

    monkeypatch.setattr(embeddings, "embed_rows", slow)
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            code = int(not torch.equal(image_embeddings(tiny_clip, data, tmp_path / "both", batch=1), whole))
        os._exit(code)
    time.sleep(0.3)  # half way through its rows
    found = image_embeddings(tiny_clip, data, tmp_path / "both", batch=1)
    assert torch.equal(found, whole)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def make_pairs(folder, vectors, captions, number=0):
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    np.save(folder / "img_emb" / f"img_emb_{number}.npy", vectors)
    lines = "\n".join(json.dumps({"caption": caption}) for caption in captions)
    (folder / "metadata" / f"metadata_{number}.jsonl").write_text(lines)


def test_embeddings_with_captions_are_what_priors_train_on(tmp_path, tiny_clip):
    vectors = np.random.default_rng(0).normal(size=(5, 24)).astype(np.float16)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[3] = np.nan
    make_pairs(tmp_path, vectors, ["a red star", "b", "c", "d", None])
    make_pairs(tmp_path, vectors[:2], ["e", "f"], number=10)
    np.save(tmp_path / "img_emb" / "img_emb_2.npy", np.zeros((3, 7), np.float32))
    data = open_data(str(tmp_path), tmp_path / "cache")
    assert len(data) == 6 and data.captions([0, 3, 5], random.Random(0)) == ["a red star", "", "f"]
    skipped = dict(data.skipped())
    assert skipped == {
        "img_emb/img_emb_0.npy, row 3": "no number, or all zeros",
        "img_emb/img_emb_2.npy": "7-d, where the parts before it are 24-d",
    }
    found = image_embeddings(tiny_clip, data, tmp_path / "none")
    assert torch.allclose(found.norm(dim=1), torch.ones(6)) and not (tmp_path / "none").exists()
    assert torch.allclose(found[0], torch.from_numpy(vectors[0]).float(), atol=1e-3)
    raw_clip = Clip(dataclasses.replace(tiny_clip.config, normalised=False))
    with pytest.raises(ValueError, match="embeddings without pictures, which only priors train on"):
        data.pictures([0])
    with pytest.raises(ValueError, match="embeddings have been normalised"):
        image_embeddings(raw_clip, data, tmp_path)
    assert "6 rows kept, 2 skipped" in report(survey(data, "pairs"))


def test_pairs_that_do_not_go_together_are_refused(tmp_path, tiny_clip):
    make_pairs(tmp_path, np.ones((3, 8), np.float32), ["a", "b"])
    with pytest.raises(ValueError, match=r"img_emb_0.npy has 3 rows, but metadata_0.jsonl 2"):
        open_data(str(tmp_path), tmp_path / "cache")
    make_pairs(tmp_path, np.ones((2, 8), np.float32), ["a", "b"])
    with pytest.raises(ValueError, match="the embeddings are 8-d, but tiny-1 makes 24-d ones"):
        image_embeddings(tiny_clip, open_data(str(tmp_path), tmp_path / "cache"), tmp_path)


def test_of_files_the_same_words_are_all_that_is_known_to_fit(data):
    told = data.captioned([0, 1, 1, 2], random.Random(0))
    assert told.captions[1:3] == ["", ""] and told.fits.tolist() == [
        [i == j or {i, j} == {1, 2} for j in range(4)] for i in range(4)
    ]
    assert data.alike(1) == [1] and data.swaps(1) == []
