"""A sweep over a shipped graph, on the tiny stack: what does not change is made once, and says so to machines."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comfyui_unclip.workflows.cli import run


@pytest.fixture
def graph(repository):
    return str(repository / "workflows" / "text_to_image.json")


@pytest.fixture
def small(graph, save):
    """The same graph with its last upsampler bypassed: 256 px pictures are made and saved in no time."""
    data = json.loads(Path(graph).read_text(encoding="utf-8"))
    next(node for node in data["nodes"] if node["id"] == 9)["mode"] = 4
    return str(save(data))


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_ten_decoder_seeds_encode_the_text_and_run_the_prior_once(small, tiny_stack, tmp_path, capsys):
    out = tmp_path / "out"
    sweep = ["--sweep", "decoder.seed=0..9", "--grid", "--json"]
    assert run(["run", small, "-s", "model=tiny", "-o", str(out), *sweep]) == 0
    events = lines(capsys)
    ran = Counter(event["node"] for event in events if event["event"] == "executing")
    # 2 loader, 3 text, 4 prior; 5 decoder, 7 upsampler, 6 and 8 previews, 10 save
    assert ran == {"2": 1, "3": 1, "4": 1} | dict.fromkeys(("5", "6", "7", "8", "10"), 10)
    pictures = [out / f"unclip_row{row:05}_00001_.png" for row in range(1, 11)]
    assert run(["run", small, "-s", "model=tiny", "-s", "decoder.seed=7", "-o", str(tmp_path / "one"), "-q"]) == 0
    alone = np.asarray(Image.open(tmp_path / "one" / "unclip_00001_.png"))
    assert (np.asarray(Image.open(pictures[7])) == alone).all()  # a row is what the same run alone would be
    assert (np.asarray(Image.open(pictures[6])) != alone).any()
    saved = json.loads(Image.open(pictures[7]).text["workflow"])
    assert next(node for node in saved["nodes"] if node["id"] == 5)["widgets_values"][4] == 7
    assert Image.open(out / "grid_00001_.png").width > 10 * 256


def test_validate_tells_machines(graph, tiny_stack, save, capsys):
    bad = save("[]")
    assert run(["validate", graph, str(bad), "--json"]) == 2
    good, wrong = lines(capsys)
    assert good == {"file": graph, "ok": True, "problems": []}
    assert wrong["ok"] is False and wrong["problems"][0]["kind"] == "invalid_prompt"


def test_show_tells_machines(graph, tiny_stack, capsys):
    assert run(["show", graph, "--json"]) == 0
    entries = {entry["name"]: entry for entry in lines(capsys)}
    assert (
        entries["decoder.seed"] | {"value": 6, "node": "5", "type": "INT", "max": 2**64 - 1} == entries["decoder.seed"]
    )
    assert "tiny" in entries["model.model_name"]["choices"] and entries["prompt.text"]["linked"] is False
