import itertools
import json
import time
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comfyui_unclip.workflows.document.graph import (
    Problem,
    WorkflowError,
    ancestors,
    find_cycle,
    is_link,
    load_workflow,
    node_name,
    topological_order,
)
from comfyui_unclip.workflows.document.reading import MAX_BYTES


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


def test_problems_are_one_printable_line():
    problem = Problem("invalid_prompt", "is\nbad \x1b[2J" + "x" * 5000 + "; fix it", 'node 1 "a\tb"')
    assert str(problem).startswith('node 1 "a b": is bad \\x1b[2Jxx') and str(problem).endswith("; fix it")
    assert str(problem).isprintable() and len(str(problem)) < 1100


def test_links_are_told_from_constants():
    assert is_link(["3", 0])
    assert not any(is_link(value) for value in (["3"], [3, 0], ["3", 0.0], ["3", True], "3", {"__value__": ["3", 0]}))


def test_order_puts_origins_first_and_leaves_out_what_nobody_needs(api):
    prompt = api(
        n9=("Show", {"value": ["2", 0]}),
        n2=("Add", {"a": ["7", 0], "b": ["1", 0]}),
        n7=("Add", {"a": ["1", 0]}),
        n1=("Number", {}),
        n5=("Number", {}),
    )
    wanted = ancestors(prompt, ["9"])
    assert wanted == {"9", "2", "7", "1"}
    assert topological_order(prompt, wanted) == ["1", "7", "2", "9"]


def test_outputs_come_as_soon_as_they_can(api):
    prompt = api(
        n1=("Number", {}),
        n2=("Add", {"a": ["1", 0]}),
        n3=("Show", {"value": ["1", 0]}),
        n4=("Show", {"value": ["2", 0]}),
    )
    assert topological_order(prompt, set(prompt)) == ["1", "2", "3", "4"]
    assert topological_order(prompt, set(prompt), early=["3", "4"]) == ["1", "3", "2", "4"]


def test_a_cycle_is_found_in_flow_direction_however_deep(api):
    prompt = {str(i): {"class_type": "Add", "inputs": {"a": [str(i + 1), 0]}} for i in range(3000)}
    prompt["3000"] = {"class_type": "Add", "inputs": {}}
    assert find_cycle(prompt, set(prompt)) is None
    prompt["3000"]["inputs"]["a"] = ["2998", 0]
    cycle = find_cycle(prompt, set(prompt))
    assert sorted(cycle) == ["2998", "2999", "3000"]
    feeds = {node: prompt[node]["inputs"]["a"][0] for node in cycle}
    assert all(feeds[after] == before for before, after in itertools.pairwise(cycle))
    with pytest.raises(ValueError, match="cycle"):
        topological_order(prompt, set(prompt))


def test_nodes_are_named_by_saved_title_then_class_title(classes):
    assert node_name("4", {"type": "Words", "title": "prompt"}, classes) == 'node 4 "prompt" (Words)'
    assert node_name("4", {"class_type": "Number", "_meta": {"title": "n"}}, classes) == 'node 4 "n" (Number)'
    assert node_name("4", {"class_type": "Gone"}, classes) == "node 4 (Gone)"
