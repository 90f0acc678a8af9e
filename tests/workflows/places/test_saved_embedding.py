"""A file that is no picture, written by Save Embedding, is an output as a picture is: named, resumed, fetched."""

import json

import pytest

from comfyui_unclip.unclip_core.checkpoints.embedding_file import load_embedding
from comfyui_unclip.workflows.cli import run
from comfyui_unclip.workflows.places.options import Options
from comfyui_unclip.workflows.places.ray_cluster import Worker
from comfyui_unclip.workflows.places.running import prepare_run
from comfyui_unclip.workflows.rows.jobs import build
from comfyui_unclip.workflows.server.job import Job

GRAPH = {
    "1": {"class_type": "UnCLIPLoader", "inputs": {"model_name": "tiny", "dtype": "fp32"}},
    "2": {"class_type": "UnCLIPTextEncode", "inputs": {"clip": ["1", 0], "text": "a red star", "one_per_line": False}},
    "3": {"class_type": "UnCLIPTextAsEmbedding", "inputs": {"text": ["2", 0]}},
    "4": {"class_type": "UnCLIPSaveEmbedding", "inputs": {"embed": ["3", 0], "filename_prefix": "mine/star"}},
}


@pytest.fixture
def unclip(tiny_stack, tmp_path, save, capsys):
    """unclip(*arguments) -> (exit code, stdout, stderr); files go to tmp_path/out."""

    def call(*arguments):
        code = run(["run", str(save(GRAPH)), "-o", str(tmp_path / "out"), *arguments])
        return code, *capsys.readouterr()

    return call


def test_its_path_is_what_quiet_says_and_an_output_of_json(unclip, tmp_path):
    folder = tmp_path / "out" / "mine"
    assert unclip("-q") == (0, f"{folder / 'star_00001_.safetensors'}\n", "")
    assert len(load_embedding(folder / "star_00001_.safetensors")) == 1
    events = [json.loads(line) for line in unclip("--json")[1].splitlines()]
    (executed,) = [event for event in events if event["event"] == "executed"]
    (row,) = [event for event in events if event["event"] == "row"]
    assert executed["outputs"] == [str(folder / "star_00002_.safetensors")]
    assert row["outputs"] == ["mine/star_00002_.safetensors"]


def test_a_row_whose_file_is_gone_is_not_finished(unclip, tmp_path):
    sweep = ("--sweep", "text=a red star,a blue boat", "-q")
    assert unclip(*sweep)[0] == 0
    first, second = sorted((tmp_path / "out" / "mine").iterdir())
    assert (first.name, second.name) == ("star_row00001_00001_.safetensors", "star_row00002_00001_.safetensors")
    second.unlink()
    assert unclip(*sweep, "--resume") == (0, f"{second}\n", "")


def test_a_ray_worker_sends_its_contents(tiny_stack, tmp_path, save):
    options = Options(output=tmp_path / "out", input=tmp_path)
    prepared = prepare_run(save(GRAPH), build(["text=a blue boat"], None, []), options)
    result, contents, _ = Worker(prepared, options, 0).run(1)
    assert result.outputs == ["mine/star_00001_.safetensors"] and len(contents) == 1
    (tmp_path / "sent.safetensors").write_bytes(contents[0])
    assert load_embedding(tmp_path / "sent.safetensors").modality == "text"


def test_a_server_has_it_fetched(unclip, tiny_models, tmp_path):
    from comfyui_unclip.tests.workflows.server.desk import served  # wants Playwright

    there = tmp_path / "there"
    there.mkdir()
    with served(there, UNCLIP_MODELS=str(tiny_models)) as address:
        code, out, err = unclip("--server", address, "-q")
    here = tmp_path / "out" / "mine" / "star_00001_.safetensors"
    assert (code, out, err) == (0, f"{here}\n", "")
    assert here.read_bytes() == (there / "out" / "mine" / here.name).read_bytes()


def test_the_editors_list_of_runs_shows_the_picture_not_the_file():
    entry = {"subfolder": "", "type": "output"}
    files = {"files": [{**entry, "filename": "b.safetensors"}]}
    shown = {"1": {"images": [{**entry, "filename": "a.png"}]}, "2": files}
    told = Job("x", 1, {}, [], shown=shown).summary()
    assert told["preview_output"]["filename"] == "a.png"
    assert (told["outputs_count"], told["previewable_outputs_count"]) == (2, 1)
    assert Job("x", 1, {}, [], shown={"2": files}).summary()["preview_output"] is None
