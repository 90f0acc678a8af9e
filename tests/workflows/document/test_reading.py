import json
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comfyui_unclip.workflows.document.graph import WorkflowError
from comfyui_unclip.workflows.document.reading import MAX_BYTES, load_workflow


def test_loads_both_forms_and_the_post_body(save, api, ui):
    prompt = api(n1=("Number", {"value": 1}))
    assert not load_workflow(save(prompt)).is_ui
    assert load_workflow(save({"prompt": prompt, "client_id": "x"})).data == prompt
    assert load_workflow(save(ui({1: ("Number", [], ["INT"], [1])}))).is_ui


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"nodes": [\n {"id": 1,}', "not valid JSON at line 2"),
        ("[1, 2]", "not a workflow"),
        ("{}", "not a workflow"),
        ('{"nodes": [{"type": "Number"}]}', "malformed node or link"),
        ('{"nodes": [{"id": 1, "type": "Number", "inputs": ["a"]}]}', "malformed node or link"),
        ('{"nodes": [], "links": [[1, 2]]}', "malformed node or link"),
    ],
)
def test_a_broken_file_is_one_line_with_its_name(save, text, said):
    path = save(text)
    with pytest.raises(WorkflowError) as caught:
        load_workflow(path)
    (problem,) = caught.value.problems
    assert said in str(problem) and str(path) in str(problem) and "\n" not in str(problem)


def test_a_missing_file_and_a_picture_are_named(tmp_path):
    with pytest.raises(WorkflowError, match="no such file"):
        load_workflow(tmp_path / "none.json")
    (tmp_path / "picture.json").write_bytes(b"\xff\xd8PNG\xff\xfe")
    with pytest.raises(WorkflowError, match="is not text"):
        load_workflow(tmp_path / "picture.json")
    with pytest.raises(WorkflowError, match="cannot be read"):
        load_workflow(tmp_path)


def test_a_graph_of_the_pack_goes_by_its_name_and_a_file_of_that_name_comes_first(tmp_path, monkeypatch, save, api):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text_to_image").mkdir()  # a run's pictures
    assert load_workflow("text_to_image").path.name == "text_to_image.json"
    (tmp_path / "text_diff").write_text(json.dumps(api(n1=("Number", {"value": 1}))))
    assert not load_workflow("text_diff").is_ui
    with pytest.raises(WorkflowError, match=r"text_to_imag: no such file; .* graphs .*, text_diff, .*text_to_image,"):
        load_workflow("text_to_imag")
    for path in ("./inpaint", "inpaint.json", "./inpaint.json", "workflows/inpaint"):
        with pytest.raises(WorkflowError, match=r"no such file; check the path; .* by its name alone, 'inpaint'$"):
            load_workflow(path)
    with pytest.raises(WorkflowError, match=r"no such file; check the path$"):
        load_workflow("workflows/other.json")


def _png(path, **texts):
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, *text) if isinstance(text, tuple) else info.add_text(key, text)
    Image.new("RGB", (3, 2)).save(path, pnginfo=info)
    return path


def test_a_picture_gives_the_graph_that_made_it(tmp_path, ui, api):
    saved, prompt = ui({1: ("Number", [], ["INT"], [7])}), api(n1=("Number", {"value": 7}))
    both = load_workflow(_png(tmp_path / "both.png", prompt=json.dumps(prompt), workflow=json.dumps(saved)))
    assert both.is_ui and both.data == saved
    assert load_workflow(_png(tmp_path / "one.png", prompt=json.dumps(prompt))).data == prompt
    packed = _png(tmp_path / "packed.png", prompt=(json.dumps(prompt), True))
    assert load_workflow(packed).data == prompt
    real = Path(__file__).parents[2] / "data" / "graph.png"
    assert load_workflow(real).is_ui


def _webp(path, exif, frames=3):
    first, *others = [Image.new("RGB", (16, 16), (80 * number, 0, 0)) for number in range(frames)]
    first.save(path, save_all=True, append_images=others, exif=exif)
    return path


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("marked", [b"", b"Exif\0\0"])
def test_an_animation_gives_the_graph_that_made_it(tmp_path, ui, api, big, marked):
    saved, prompt = ui({1: ("Number", [], ["INT"], [7])}), api(n1=("Number", {"value": 7}))
    exif = Image.Exif()
    exif.endian = ">" if big else "<"
    exif[0x010F], exif[0x010E] = f"workflow:{json.dumps(saved)}", "note:x"
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    assert load_workflow(_webp(tmp_path / "saved.webp", marked + block)).data == saved
    exif = Image.Exif()
    exif[0x0110], exif[0x0131] = f"Prompt:{json.dumps(prompt)}", "a program: x"
    assert load_workflow(_webp(tmp_path / "api.webp", exif, frames=1)).data == prompt


def test_an_animation_without_a_graph_or_cut_off_is_named(tmp_path):
    exif = Image.Exif()
    exif[0x0110] = "prompt:{}"
    whole = _webp(tmp_path / "x.webp", exif).read_bytes()
    for content in (_webp(tmp_path / "plain.webp", b"").read_bytes(), whole[:-8], whole[:-20], whole[:14], whole[:12]):
        (tmp_path / "x.webp").write_bytes(content)
        with pytest.raises(WorkflowError, match="picture without a graph"):
            load_workflow(tmp_path / "x.webp")


def test_a_picture_without_a_graph_or_with_a_bomb_is_named(tmp_path):
    with pytest.raises(WorkflowError, match="picture without a graph"):
        load_workflow(_png(tmp_path / "plain.png", comment="hello"))
    with pytest.raises(WorkflowError, match="picture without a graph"):
        load_workflow(_png(tmp_path / "bomb.png", workflow=(" " * (MAX_BYTES + 10), True)))
    (tmp_path / "cut.png").write_bytes((_png(tmp_path / "plain.png", comment="x")).read_bytes()[:20])
    with pytest.raises(WorkflowError, match="picture without a graph"):
        load_workflow(tmp_path / "cut.png")


def _chunk(kind, content):
    return len(content).to_bytes(4, "big") + kind + content + bytes(4)


def test_texts_of_a_picture_are_found_behind_its_pixels_and_in_any_encoding(tmp_path, api):
    prompt = api(n1=("Words", {"text": "一颗红星"}))
    plain = _png(tmp_path / "plain.png").read_bytes()
    text = b"prompt\0" + json.dumps(prompt, ensure_ascii=False).encode()  # UTF-8 where the standard has Latin-1
    (tmp_path / "late.png").write_bytes(plain[:-12] + _chunk(b"tEXt", text) + plain[-12:])
    assert load_workflow(tmp_path / "late.png").data == prompt


def test_a_picture_of_a_million_chunks_or_texts_is_given_up_in_time(tmp_path):
    bomb = _chunk(b"zTXt", b"a\0\0" + zlib.compress(b" " * 2**20))
    for name, chunk, count in (("empty", _chunk(b"abCd", b""), 1_000_000), ("bomb", bomb, 20_000)):
        (tmp_path / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk * count)
        started = time.process_time()
        with pytest.raises(WorkflowError, match="picture without a graph"):
            load_workflow(tmp_path / f"{name}.png")
        assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'"' + b"x" * (MAX_BYTES + 10) + b'"', "larger than 16 MB"),
        (b"[" + b"{}," * 2_100_000 + b"{}]", "more than 2,000,000 lists and objects"),
        (b"[" * 150 + b"]" * 150, "nested more than 100 deep"),
        (b'{"a":' * 200_000, "nested more than 100 deep"),
        (b'{"nodes": [' + b'{"id":1,"type":"A"},' * 100_001 + b"{}]}", "malformed node"),
        (b'{"nodes": [' + b",".join([b'{"id":1,"type":"A"}'] * 100_001) + b"]}", "100,001 nodes, more than 100,000"),
        (b'{"nodes": [{"id": ' + b"9" * 5000 + b', "type": "A"}]}', "thousands of digits"),
        (b'{"nodes": [], "definitions": {"subgraphs": [null]}}', "malformed node or link: null"),
        (b'{"nodes": [], "definitions": [1]}', "malformed node or link: [1]"),
        (b'{"nodes": [{"id": NaN, "type": "A"}]}', "malformed node or link"),
        (b"\xff\xfe\x00", "is not text"),
        (b"\xff\xfe{\x00", "not valid JSON"),  # UTF-16
        (b"1" * 5000, "thousands of digits"),
        (b"", "not valid JSON"),
        (b"\x89PNG\r\n\x1a\n", "without a graph"),
        (b"RIFF\x10\0\0\0WEBP", "without a graph"),
    ],
)
def test_hostile_files_are_refused_in_one_line(tmp_path, content, said):
    (tmp_path / "graph.json").write_bytes(content)
    started = time.process_time()
    with pytest.raises(WorkflowError) as caught:
        load_workflow(tmp_path / "graph.json")
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert time.process_time() - started < 5


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_every_unicode_encoding_is_read(tmp_path, api, encoding):
    prompt = api(n1=("Words", {"text": "一颗红色的星星"}))
    (tmp_path / "graph.json").write_bytes(json.dumps(prompt, ensure_ascii=False).encode(encoding))
    assert load_workflow(tmp_path / "graph.json").data == prompt


def test_half_characters_become_replacement_characters(save):
    text = '{"1": {"class_type": "A", "inputs": {"t": "\\ud800 \\ud83d\\ude00 \\\\ud800"}}}'
    assert load_workflow(save(text)).data["1"]["inputs"]["t"] == "\ufffd 😀 \\ud800"
