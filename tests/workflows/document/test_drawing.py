"""`unclip graph`: the wires of small graphs by heart, and any graph without a crash."""

import pytest

from comfyui_unclip.workflows.cli import run
from comfyui_unclip.workflows.document.drawing import as_mermaid, as_text


def wires(text):
    """The left part of the lines that name a node."""
    return [line.rstrip() for line in text.splitlines() if "●" in line]


def test_wires_run_from_a_node_down_to_its_users(api, classes):
    prompt = api(
        n1=("Number", {"value": 3}, "start"),
        n2=("Add", {"a": ["1", 0], "b": 4}),
        n3=("Add", {"a": ["2", 0], "b": ["1", 0]}),
        n4=("Show", {"value": ["3", 0]}),
        n5=("Show", {"value": ["1", 0]}),
    )
    text = as_text(prompt, classes)
    assert wires(text) == [
        "●        1 start (Number)",
        "├─●      2 Add",
        "├─┴─●    3 Add",
        "│   ╰─●  4 Show",
        "╰─●      5 Show",
    ]
    assert "a ← INT of 1 start" in text and "b=4" in text


def test_users_that_come_first_in_the_file_are_drawn_after_what_they_need(api, classes):
    prompt = api(n9=("Show", {"value": ["1", 0]}), n1=("Number", {"value": 3}))
    assert wires(as_text(prompt, classes)) == ["●    1 Number", "╰─●  9 Show"]


def test_broken_links_and_circles_are_drawn_too(api, classes):
    prompt = api(n1=("Add", {"a": ["2", 0], "b": 1}), n2=("Add", {"a": ["1", 0], "b": ["7", 0]}))
    text = as_text(prompt, classes)
    assert text.count("●") == 2 and "b ← 7, which is not in the graph" in text
    assert as_mermaid(prompt, classes).count("-->") == 2


def test_a_graph_of_a_thousand_nodes_is_drawn_at_once(api, classes):
    import time

    prompt = {str(n): {"class_type": "Add", "inputs": {"a": [str(n // 2), 0], "b": n}} for n in range(1, 1000)}
    began = time.process_time()
    assert as_text(prompt, classes).count("●") == 999
    assert time.process_time() - began < 2


def test_mermaid_names_boxes_and_arrows_and_lets_no_title_out(api, classes):
    prompt = api(
        n1=("Number", {"value": 3}, 'a "title"]\n<b>#1'),
        n2=("Show", {"value": ["1", 0]}),
    )
    lines = as_mermaid(prompt, classes).splitlines()
    assert lines == [
        "flowchart LR",
        '    n1["a #quot;title#quot;] #lt;b#gt;#35;1<br/><small>Number</small>"]',
        '    n2(["Show"])',
        '    n1 -->|"INT"| n2',
    ]


@pytest.mark.parametrize("option", [[], ["--mermaid"]])
def test_the_command_draws_a_shipped_graph(repository, tiny_stack, capsys, option):
    assert run(["graph", str(repository / "workflows" / "text_to_image.json"), *option]) == 0
    out = capsys.readouterr().out
    assert "decoder" in out and "UPSAMPLER 1024" in out
    assert out.startswith("flowchart LR" if option else "●")


def test_a_file_without_nodes_is_an_error(save, ui, capsys):
    assert run(["graph", str(save(ui({1: ("Note", [], [], ["x"])})))]) == 2
    assert "nothing to draw" in capsys.readouterr().err
