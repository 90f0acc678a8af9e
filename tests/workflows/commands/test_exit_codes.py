"""One rule for every command: 0 done, or yes; 1 work that had begun failed, or no; 2 what was given cannot be used."""

import pkgutil
import shutil

import pytest

from comfyui_unclip.workflows import commands
from comfyui_unclip.workflows.cli import run

NAMES = sorted(name.replace("_", "-") for _, name, _ in pkgutil.iter_modules(commands.__path__) if name[0] != "_")
# What each command is given that is not there. `edit` takes nothing but a port and folders.
ABSENT = {
    "check": ["nobody"],
    "convert": ["nowhere", "there"],
    "data": ["nowhere"],
    "edit": ["--port", "much"],
    "evaluate": ["nobody"],
    "fit-analytic": ["--prior", "nobody"],
    "fit-pca": ["--clip", "nobody"],
    "graph": ["nowhere.json"],
    "models": ["nobody"],
    "pull": ["nobody", "--dtype", "fp16"],
    "reproduce": ["--only", "nothing"],
    "run": ["nowhere.json"],
    "show": ["nowhere.json"],
    "train": ["prior", "--data", "nowhere", "--clip", "nobody"],
    "validate": ["nowhere.json"],
}


@pytest.fixture(autouse=True)
def desk(tiny_models, tmp_path, monkeypatch):
    models = tmp_path / "models"
    shutil.copytree(tiny_models / "tiny", models / "tiny")
    monkeypatch.setenv("UNCLIP_MODELS", str(models))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_there_or_not_known_is_2(name, capsys):
    assert run([name, *ABSENT[name]]) == 2
    assert capsys.readouterr().err.strip()
    assert run([name, "--no-such-option"]) == 2
    assert run([name, "--help"]) == 0


def test_a_check_that_says_no_is_1(save, graph_of, tmp_path):
    good, bad = save(graph_of(0), "good.json"), save(graph_of(-5), "bad.json")
    assert [run(["validate", str(file)]) for file in (good, bad)] == [0, 1]
    assert run(["validate", str(bad), "nowhere.json"]) == 2
    assert run(["models", "tiny", "--verify"]) == 0
    file = tmp_path / "models" / "tiny" / "prior.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    assert run(["models", "tiny", "--verify"]) == 1


def test_a_node_that_refuses_is_1_alone_and_among_rows(save, graph_of, capsys):
    file = str(save(graph_of(3)))  # place 3 of a batch of one: only the node can know
    assert run(["run", file]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: node 4") and "index" in line
    assert run(["run", file, "--sweep", "pick.index=0,3"]) == 1
    assert run(["run", file, "-s", "pick.index=0"]) == 0
    assert run(["run", file, "-s", "pick.index=-5"]) == 2  # before anything ran


@pytest.fixture
def graph_of():
    """graph_of(index) -> one embedding, picked at that place of its batch and saved."""

    def make(index):
        text = {"clip": ["1", 0], "text": "a red star", "one_per_line": False}
        pick = {"embed": ["3", 0], "index": index, "length": 1}
        return {
            "1": {"class_type": "UnCLIPLoader", "inputs": {"model_name": "tiny", "dtype": "fp32"}},
            "2": {"class_type": "UnCLIPTextEncode", "inputs": text},
            "3": {"class_type": "UnCLIPTextAsEmbedding", "inputs": {"text": ["2", 0]}},
            "4": {"class_type": "UnCLIPEmbeddingFromBatch", "inputs": pick, "_meta": {"title": "pick"}},
            "5": {"class_type": "UnCLIPSaveEmbedding", "inputs": {"embed": ["4", 0], "filename_prefix": "x"}},
        }

    return make
