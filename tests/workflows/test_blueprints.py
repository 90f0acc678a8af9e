"""subgraphs/*.json: the boxes are what their script draws, and in a graph they paint what the shipped graphs paint."""

import importlib
import json
import sys

import numpy as np
import pytest
from PIL import Image

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS
from comfyui_unclip.workflows import load, run
from comfyui_unclip.workflows.cli import run as unclip
from comfyui_unclip.workflows.document.schema import node_schema

NAMES = ("Text to picture", "Vary a picture", "Blend two pictures", "Change by words")


@pytest.fixture(autouse=True)
def models(tiny_models, monkeypatch):
    monkeypatch.setenv("UNCLIP_MODELS", str(tiny_models))


@pytest.fixture
def painted(repository, tmp_path):
    """painted(box, **widgets) -> pixels of what a graph of the box, example pictures and Save Image saves."""

    def paint(name, **widgets):
        data = json.loads((repository / "subgraphs" / f"{name} (unCLIP).json").read_text("utf-8"))
        (box,) = data["nodes"]
        links = []
        for slot, socket in enumerate(box["inputs"]):
            if socket["type"] == "IMAGE":
                number = 10 + slot
                socket["link"] = number
                links.append([number, number, 0, 1, slot, "IMAGE"])
                outputs = [{"name": "IMAGE", "type": "IMAGE", "links": [number]}, {"name": "MASK", "type": "MASK"}]
                data["nodes"].append(plain(number, "UnCLIPExamplePicture", ["red apple in the snow"], [], outputs))
        box["outputs"][0]["links"] = [99]
        links.append([99, 1, 0, 99, 0, "IMAGE"])
        saved = [{"name": "images", "type": "IMAGE", "link": 99}]
        data["nodes"].append(plain(99, "SaveImage", ["box"], saved, []))
        data["links"] = links
        path = tmp_path / "graph.json"
        path.write_text(json.dumps(data), "utf-8")
        return pixels(load(path), {f"{name} (unCLIP).{key}": value for key, value in widgets.items()}, tmp_path)

    return paint


def plain(number, kind, values, inputs, outputs):
    place = {"pos": [0, 0], "size": [200, 100], "flags": {}, "order": 0, "mode": 0, "properties": {}}
    return {"id": number, "type": kind, "widgets_values": values, "inputs": inputs, "outputs": outputs, **place}


def pixels(graph, settings, output):
    report = run(graph, settings, output=output)
    assert not report.failed, report.failed[0].error
    return np.stack([np.asarray(Image.open(path)) for path in sorted(report.files) if path.suffix == ".png"])


# What each box is given by its own ends: a picture's file, and the widget that a caption goes into.
GIVEN = {
    "Text to picture": ["text=a blue boat"],
    "Vary a picture": ["image=star.png", "count=2"],
    "Blend two pictures": ["first=star.png", "second=sea.png", "frames=2"],
    "Change by words": ["image=star.png", "what_it_is=a star", "text=a blue star", "frames=2"],
}


@pytest.mark.parametrize("name", NAMES)
def test_a_box_runs_alone_by_its_name_with_its_ends_set(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file, colour in {"star.png": "red", "sea.png": "blue"}.items():
        Image.new("RGB", (64, 64), colour).save(tmp_path / file)
    settings = [part for text in ("model_name=tiny", *GIVEN[name]) for part in ("-s", text)]
    assert unclip(["run", f"{name} (unCLIP)", "-i", ".", *settings, "-q"]) == 0
    pictures = capsys.readouterr().out.splitlines()
    assert len(pictures) == (1 if name == "Text to picture" else 2)
    with Image.open(pictures[0]) as picture:
        assert picture.width == (1024 if name == "Text to picture" else 256) and np.asarray(picture).std() > 1
    # The picture carries the box with its ends; run again it is the same.
    assert unclip(["run", pictures[0], "-i", ".", "-q", "-o", "again"]) == 0
    again = capsys.readouterr().out.splitlines()
    assert np.array_equal(Image.open(again[0]), Image.open(pictures[0]))
    node = json.loads(Image.open(pictures[0]).text["workflow"])["nodes"][0]
    assert node["title"] == f"{name} (unCLIP)" and node["outputs"][0]["links"]


def test_a_box_whose_picture_is_not_given_says_how(capsys):
    assert unclip(["run", "Blend two pictures (unCLIP)", "-s", "model_name=tiny"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and all("no picture is chosen; choose one (headless: -s TITLE=FILE" in line for line in told)
    assert ['"first"' in told[0], '"second"' in told[1]] == [True, True]
    assert unclip(["run", "Blend"]) == 2
    assert '"Blend two pictures (unCLIP)"' in capsys.readouterr().err


def test_a_graph_of_a_single_box_with_links_of_its_own_is_left_alone(repository, tmp_path):
    data = json.loads((repository / "subgraphs" / "Vary a picture (unCLIP).json").read_text("utf-8"))
    data["nodes"].append(plain(2, "PreviewImage", [], [{"name": "images", "type": "IMAGE", "link": None}], []))
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(data), "utf-8")
    assert load(path).data == data


def test_the_files_are_what_the_script_draws(repository):
    folder = str(repository / "tests" / "tools")
    sys.path.insert(0, folder)
    try:
        files = importlib.import_module("blueprints").files()
    finally:
        sys.path.remove(folder)
    assert {path: path.read_text("utf-8") for path in (repository / "subgraphs").iterdir()} == files


@pytest.mark.parametrize("name", NAMES)
def test_links_inside_a_box_end_where_the_page_has_that_input(repository, name):
    """The page makes a node's sockets first, then an input for each widget, and goes by their places."""
    data = json.loads((repository / "subgraphs" / f"{name} (unCLIP).json").read_text("utf-8"))
    (inside,) = data["definitions"]["subgraphs"]
    links = {link["id"]: link for link in inside["links"]}
    for node in inside["nodes"]:
        specs = node_schema(NODE_CLASS_MAPPINGS[node["type"]]).inputs.values()
        wanted = sorted(specs, key=lambda spec: spec.is_widget)
        assert [socket["name"] for socket in node["inputs"]] == [spec.name for spec in wanted]
        for slot, socket in enumerate(node["inputs"]):
            assert socket["link"] is None or links[socket["link"]]["target_slot"] == slot


@pytest.mark.parametrize("name", NAMES)
def test_a_box_paints_by_its_own_widgets(painted, name):
    few = {"frames": 2} if name in NAMES[2:] else {"count": 2}
    pictures = painted(name, model_name="tiny", **few)
    assert len(pictures) == 2 and pictures.std() > 1
    seeds = {"Text to picture": "painting_seed", "Change by words": "end_theta"}
    turned = painted(name, model_name="tiny", **few, **{seeds.get(name, "seed"): 0.9 if name == NAMES[3] else 99})
    if name == "Vary a picture":  # eta 1: each step draws noise
        assert painted(name, model_name="tiny", eta=0.0, **few).shape == pictures.shape
    assert not np.array_equal(turned, pictures)


def test_the_text_box_is_the_shipped_graph(painted, repository, tmp_path):
    graph = load(repository / "workflows" / "text_to_image.json")
    settings = {"model.model_name": "tiny", "prompt.text": "a blue boat"}
    whole = pixels(graph, settings, tmp_path / "graph")
    assert np.array_equal(painted("Text to picture", model_name="tiny", text="a blue boat"), whole)
