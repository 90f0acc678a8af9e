"""`--cache DIR` on the tiny stack: what is found again, what must not be, and damaged or growing folders."""

import json
import os

import pytest
import torch

from comfyui_unclip.unclip_core.types import Embedding, GivenNoise, Inversion, LoraRecord
from comfyui_unclip.workflows.cli import run
from comfyui_unclip.workflows.engine.cache import Entry
from comfyui_unclip.workflows.engine.disk_cache import Store

GRAPH = {
    "1": {"class_type": "UnCLIPLoader", "inputs": {"model_name": "tiny", "dtype": "fp32"}},
    "2": {"class_type": "UnCLIPTextEncode", "inputs": {"clip": ["1", 0], "text": "a red star", "one_per_line": False}},
    "3": {
        "class_type": "UnCLIPDiffusionPrior",
        "inputs": {
            "prior": ["1", 1],
            "text": ["2", 0],
            "steps": 0,
            "guidance_scale": -1,
            "candidates": 1,
            "count": 1,
            "sampler": "auto",
            "seed": 0,
        },
    },
    "4": {
        "class_type": "UnCLIPDecoderSample",
        "inputs": {
            "decoder": ["1", 2],
            "embed": ["3", 0],
            "text": ["2", 0],
            "steps": 0,
            "guidance_scale": -1,
            "eta": 0,
            "sampler": "auto",
            "seed": 0,
            "noise_per_item": True,
            "count": 1,
        },
    },
    "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "x"}},
}


@pytest.fixture
def cached(tiny_stack, tmp_path, capsys):
    """cached(*arguments) -> (ids that were executed, picture's bytes) of a run with a fresh session."""

    def call(*arguments):
        file = tmp_path / "graph.json"
        file.write_text(json.dumps(GRAPH))
        command = ["run", str(file), "-o", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), "--json"]
        assert run([*command, *map(str, arguments)]) == 0
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        (saved,) = [path for event in events if event["event"] == "executed" for path in event.get("outputs", ())]
        from PIL import Image

        return [event["node"] for event in events if event["event"] == "executing"], Image.open(saved).tobytes()

    return call


def entries(tmp_path):
    return sorted((tmp_path / "cache").glob("??/*.safetensors"))


def test_a_second_run_reads_encodings_and_embeddings_and_makes_the_same_picture(cached, tmp_path):
    first, picture = cached()
    assert first == ["1", "2", "3", "4", "5"] and len(entries(tmp_path)) == 2  # pictures and handles are not kept
    assert cached() == (["1", "4", "5"], picture)
    assert cached("-s", "4.seed=1")[0] == ["1", "4", "5"]


def test_other_words_other_settings_and_other_weights_are_other_entries(cached, tmp_path, tiny_models, monkeypatch):
    cached()
    assert cached("-s", "text=a blue boat")[0] == ["1", "2", "3", "4", "5"]
    assert cached("-s", "3.seed=1")[0] == ["1", "3", "4", "5"]
    other = tmp_path / "models" / "tiny"
    other.mkdir(parents=True)
    for file in (tiny_models / "tiny").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    monkeypatch.setenv("UNCLIP_MODELS", str(other.parent))
    assert cached()[0] == ["1", "4", "5"]  # a copy is the same weights
    data = bytearray((other / "prior.safetensors").read_bytes())
    data[-8:] = b"\0" * 8
    (other / "prior.safetensors").write_bytes(data)
    assert cached()[0] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("damage", ["cut", "flip", "html", "empty"])
def test_a_damaged_entry_is_warned_of_and_made_again(cached, tmp_path, caplog, damage):
    picture = cached()[1]
    for path in entries(tmp_path):
        data = bytearray(path.read_bytes())
        if damage == "flip":
            data[-3] ^= 0x40
        path.write_bytes({"cut": data[:-9], "flip": data, "html": b"<html>", "empty": b""}[damage])
    assert cached() == (["1", "2", "3", "4", "5"], picture)
    assert caplog.text.count("is damaged and is made again") == 2
    assert cached()[0] == ["1", "4", "5"]


def test_the_folder_stays_under_its_limit_and_the_least_recently_used_go(cached, tmp_path):
    cached()
    size = sum(path.stat().st_size for path in entries(tmp_path))
    first = entries(tmp_path)
    for path in first:
        os.utime(path, (1, 1))
    cached("-s", "text=a blue boat", "--cache-size", size)
    left = entries(tmp_path)
    assert sum(path.stat().st_size for path in left) <= size and not set(first) & set(left)


def test_a_folder_that_cannot_be_written_is_a_warning(cached, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    assert cached()[0] == ["1", "2", "3", "4", "5"]
    assert "going on without" in caplog.text


@pytest.mark.parametrize("loras", [(), (LoraRecord("cup", 0.8, "f0"), LoraRecord("snow", 1.0, "a1"))])
def test_an_inversion_comes_back_with_its_loras(tmp_path, loras):
    store, inversion = Store(tmp_path, 1 << 30), Inversion((900, 0), "d", 1.0, "e", "", 0.25, loras=loras)
    noise = GivenNoise(torch.randn(1, 3, 4, 4), inversion)
    store.write("ab", Entry([[noise]]))
    ((found,),) = store.read("ab").outputs
    assert found.inversion == inversion and torch.equal(found.x_T, noise.x_T)


def test_no_bit_of_an_entry_can_change_unnoticed(tmp_path):
    """A bit at every place of the file, its header with ids and modalities included, and an entry under another's
    name: the entry comes back as it was, or not at all."""
    store = Store(tmp_path, 1 << 30)
    vector = torch.arange(4.0).reshape(1, 4)
    store.write("ab" * 20, Entry([[Embedding(vector, "ViT-L-14/openai", "image", 3)], [LoraRecord("cup", 0.8, "f0")]]))
    (path,) = tmp_path.glob("??/*.safetensors")
    whole, returned = path.read_bytes(), 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        if (entry := store.read("ab" * 20)) is not None:
            ((embed,), (lora,)), returned = entry.outputs, returned + 1
            assert torch.equal(embed.vector, vector) and lora == LoraRecord("cup", 0.8, "f0")
            assert (embed.clip_id, embed.modality, embed.noise_level) == ("ViT-L-14/openai", "image", 3)
    assert returned < len(whole) // 20  # spaces at the header's end
    path.write_bytes(whole)
    assert store.read("ab" * 20) is not None
    (tmp_path / "ac").mkdir()
    (tmp_path / "ac" / f"{'ac' * 20}.safetensors").write_bytes(whole)
    assert store.read("ac" * 20) is None
