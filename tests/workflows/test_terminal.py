"""A stranger's texts on a terminal: one line each, and nothing in them that a terminal obeys."""

import copy
import json
import logging
import unicodedata

import pytest

from comfyui_unclip.nodes.host import LocalHost, use_host
from comfyui_unclip.unclip_core.checkpoints.native import save_stage
from comfyui_unclip.unclip_core.config import PriorConfig
from comfyui_unclip.unclip_core.texts import json_text, one_line, printable, shown
from comfyui_unclip.workflows.cli import run
from comfyui_unclip.workflows.terminal import OneLine

# Clears the screen, retitles the window, fakes a line, turns the direction, is half a character, is a C1 control.
EVIL = "\x1b[2J\x1b]0;title\x07a\nerror: faked\r\u202eb\x9b31m\x7f\u2028c"


def harmless(text):
    """Whether a terminal obeys nothing in it but line ends."""
    return all(letter == "\n" or unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in text)


def test_texts_are_one_printable_line():
    for text in (EVIL, EVIL * 1000, "\ud800", "x" * 5000):
        for made in (printable(text), one_line(text), shown(text), shown({text: [text]}), json_text({text: text})):
            assert harmless(made) and "\n" not in made
            made.encode()
        assert len(one_line(text)) <= 10_000 and json.loads(json_text({text: [text]})) == {text: [text]}
    assert one_line("红 star é 🌟") == printable("红 star é 🌟") == "红 star é 🌟"
    assert "红" in json_text("红") and json_text({"a": [1]}, indent=1).count("\n") == 4


@pytest.fixture
def graph(tmp_path):
    """A graph in which every text is hostile: titles, ids, classes, names of inputs and values."""
    nodes = {
        f"4{EVIL}": {
            "class_type": "UnCLIPDiffusionPrior",
            "inputs": {"seed": EVIL, EVIL: EVIL, "prior": ["1", 0], "text": [EVIL, 0]},
            "_meta": {"title": EVIL},
        },
        "1": {"class_type": "UnCLIPLoader", "inputs": {"model_name": EVIL}, "_meta": {"title": EVIL}},
        "5": {"class_type": EVIL, "inputs": {"a": [EVIL, 3]}, "_meta": {"title": EVIL, "origin": {"pack": EVIL}}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": EVIL}},
    }
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(nodes))
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["show"],
        ["show", "--json"],
        ["graph"],
        ["graph", "--mermaid"],
        ["validate"],
        ["validate", "--json"],
        ["run"],
        ["run", "--json"],
        ["run", "--dry-run"],
    ],
    ids=" ".join,
)
def test_nothing_of_a_graph_steers_a_terminal(arguments, graph, tmp_path, capfd):
    command, *options = arguments
    with use_host(LocalHost(tmp_path / "output", tmp_path / "input")):
        run([command, str(graph), *options])
    printed = capfd.readouterr()
    for text in (printed.out, printed.err):
        assert harmless(text)
        assert not [line for line in text.splitlines() if line.startswith("error: faked")]
    assert "title" in printed.out + printed.err or command == "graph"


def test_nothing_of_a_model_steers_a_terminal(tmp_path, monkeypatch, capfd, torch_state):
    """Its folder's name, its ids and its licence."""
    monkeypatch.setenv("UNCLIP_MODELS", str(tmp_path))
    folder = tmp_path / EVIL.replace("\x07", "").replace("/", "")
    save_stage(folder / "prior.safetensors", torch_state, "prior", PriorConfig(), {"modelspec.license": EVIL})
    (folder / "decoder.safetensors").write_bytes(b"x")
    for arguments in (["models"], ["models", "--json"], ["models", folder.name]):
        run(arguments)
        printed = capfd.readouterr()
        assert harmless(printed.out) and harmless(printed.err) and "2J" in printed.out


@pytest.fixture
def torch_state():
    import torch

    return {EVIL: torch.ones(2)}


def test_log_records_are_one_line():
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "%s is torn", (EVIL,), None)
    line = OneLine("%(levelname)s: %(message)s").format(copy.copy(record))
    assert harmless(line) and "\n" not in line and line.startswith("WARNING: ")
