"""tests/tools/layout.py: the shipped graphs have no fault that it knows, and it knows each of them."""

import copy
import importlib
import json
import sys

import pytest

from comfyui_unclip.workflows.checks.stacks import shipped_graphs


@pytest.fixture(scope="module")
def layout(repository):
    folder = str(repository / "tests" / "tools")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("layout")
    finally:
        sys.path.remove(folder)


@pytest.fixture
def graph(repository):
    return read(repository, "image_variations")


def read(repository, name):
    return json.loads((repository / "workflows" / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("name", shipped_graphs())
def test_a_shipped_graph_is_laid_out_well(layout, repository, name):
    graph = read(repository, name)
    assert layout.faults(graph) == []
    before = copy.deepcopy(graph)
    assert layout.tidy(graph) == before


def test_more_and_more_eta_stands_from_left_to_right(graph):
    decoders = [node for node in graph["nodes"] if node["type"] == "UnCLIPDecoderSample"]
    decoders.sort(key=lambda node: (node["pos"][1], node["pos"][0]))
    assert [node["widgets_values"][2] for node in decoders] == [0.0, 0.25, 0.5, 1.0]


@pytest.mark.parametrize("name", shipped_graphs())
def test_one_result_is_shown_once(repository, name):
    """Where an animation shows the frames, the sheet of the same frames is saved without being shown."""
    nodes = read(repository, name)["nodes"]
    sheets = [node for node in nodes if node["type"] == "SaveImage"]
    if any(node["type"] == "UnCLIPSaveAnimation" for node in nodes):
        assert all(node["flags"].get("collapsed") for node in sheets)


def test_every_title_has_chinese_words_that_fit(layout, repository):
    """web/js/titles.js shows a group's words alone, a node's after its name."""
    titles = json.loads((repository / "web" / "titles.zh.json").read_text("utf-8"))
    graphs = [read(repository, name) for name in shipped_graphs()]
    assert set(titles["nodes"]) == {entry["title"] for graph in graphs for entry in graph["nodes"]}
    assert set(titles["groups"]) == {group["title"] for graph in graphs for group in graph["groups"]}
    for group in (group for graph in graphs for group in graph["groups"]):
        assert layout.width_of(titles["groups"][group["title"]]) + layout.PAD <= group["bounding"][2], group["title"]
    for entry in (entry for graph in graphs for entry in graph["nodes"]):
        wide = layout.width_of(f"{entry['title']} {titles['nodes'][entry['title']]}", 14) + 50
        assert wide <= entry["size"][0], entry["title"]


def node(graph, title):
    return next(entry for entry in graph["nodes"] if entry.get("title") == title)


def set_group(place, **values):
    return lambda graph: graph["groups"][place].update(values)


def set_node(title, **values):
    return lambda graph: node(graph, title).update(values)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (set_group(0, title=""), "has no name"),
        (set_group(0, title="1 · A picture, and what it is that we take from it"), "its title is wider"),
        (set_group(0, color="#3f789e"), "contrast 2"),
        (set_group(0, bounding=[500, 0, 600, 500]), "overlap"),
        (set_node("picture", pos=[520, 2000]), "in 0 groups"),
        (set_node("picture", size=[900, 78]), "sticks out"),
        (set_node("picture", pos=[520, 100]), "lies over the other"),
        (set_node("decoder", size=[290, 580]), "194 px of it are empty"),
        (set_node("decoder", pos=[0, 0]), "its preview would lie over"),
        (set_node("Start here", size=[400, 900]), "a third of it is empty"),
        (set_node("Start here", size=[400, 100]), "its text needs"),
        (lambda graph: graph["extra"]["ds"].update(scale=0.65), "the opening view shows"),
        (lambda graph: graph["extra"]["ds"].update(scale=0.5), "the opening view writes nothing"),
    ],
)
def test_a_spoilt_layout_is_found(layout, graph, spoil, said):
    spoil(graph)
    if said == "its preview would lie over":
        node(graph, "decoder")["pos"] = node(graph, "grid")["pos"][:]
        node(graph, "grid")["pos"] = [node(graph, "grid")["pos"][0], 700]
    assert any(said in fault for fault in layout.faults(graph))
