"""Folders that cannot be used: one clear line with file, key, expected and found, and nothing loaded in part."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfyui_unclip.tests.copies import copy_folder, own
from comfyui_unclip.unclip_core.checkpoints import catalog, tensors
from comfyui_unclip.unclip_core.checkpoints.header import CheckpointError, WeightSet
from comfyui_unclip.unclip_core.checkpoints.loading import load_network
from comfyui_unclip.unclip_core.checkpoints.pickles import count_pickled
from comfyui_unclip.unclip_core.checkpoints.tensors import open_weights
from comfyui_unclip.unclip_core.stack import load_stack

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def written(karlo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("karlo") / "source"
    karlo.write_karlo_folder(folder)
    return folder


@pytest.fixture
def root(written, tmp_path, monkeypatch):
    """A search path with nothing but a copy of the folder, called karlo."""
    monkeypatch.setattr(catalog, "EMBEDDED", tmp_path / "embedded")
    monkeypatch.setenv(catalog.ENVIRONMENT, str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    copy_folder(written, tmp_path / "models" / "karlo")
    return tmp_path / "models"


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(*parts):
    """The stack's error, one line, with these words in it."""
    with pytest.raises(ValueError) as error:
        catalog.find("karlo")
    message = str(error.value)
    assert message.startswith("Load unCLIP: model 'karlo' is broken: ") and "\n" not in message
    for part in parts:
        assert part in message
    return message


class Attack:
    def __reduce__(self):
        return os.system, ("true",)


def test_truncated_files(root):
    for path in (root / "karlo" / "decoder" / WEIGHTS, root / "karlo" / "text_encoder" / "model.safetensors"):
        own(path).write_bytes(path.read_bytes()[:-100])
    refused("decoder/diffusion_pytorch_model.safetensors: truncated", "text_encoder/model.safetensors: truncated")


@pytest.mark.parametrize("folder", ["text_proj", "super_res_last", "prior_scheduler", "text_encoder"])
def test_a_missing_folder(root, folder):
    shutil.rmtree(root / "karlo" / folder)
    refused(f"karlo/{folder}/", f"missing; download the folder '{folder}' of this model again")


def test_a_folder_without_weights(root):
    (root / "karlo" / "super_res_first" / WEIGHTS).unlink()
    refused("super_res_first: no weights (.safetensors or .bin) in it")


def test_a_missing_shard(karlo, root):
    folder = root / "karlo" / "prior"
    shutil.rmtree(folder)
    karlo.build_network("prior", karlo.KarloSizes()).save_pretrained(folder, max_shard_size="50KB")
    shard = next(folder.glob("*00002*"))
    shard.unlink()
    refused(f"{shard.name}: missing, though diffusion_pytorch_model.safetensors.index.json lists it")


@pytest.mark.parametrize(("pipeline", "listed"), [("StableDiffusionPipeline", "vae"), ("Kandinsky3Pipeline", "movq")])
def test_another_pipeline(root, pipeline, listed):
    index = {"_class_name": pipeline, listed: ["diffusers", "AutoencoderKL"]}
    (root / "karlo" / "model_index.json").write_text(json.dumps(index))
    refused(f"a {pipeline}, but comfyui-unclip reads UnCLIPPipeline, UnCLIPImageVariationPipeline")
    assert catalog.list_stacks()["karlo"].stages == {}


@pytest.mark.parametrize(
    ("file", "changes", "expected"),
    [
        ("prior/config.json", {"added_emb_type": None}, "added_emb_type is None, expected 'prd'"),
        ("prior/config.json", {"num_layers": "many"}, "num_layers is 'many', expected a positive whole number"),
        ("prior/config.json", {"_class_name": "DiT"}, "class 'DiT' instead of 'PriorTransformer'"),
        ("decoder/config.json", {"class_embed_type": "projection"}, "class_embed_type is 'projection'"),
        ("decoder/config.json", {"block_out_channels": [32, 50]}, "[32, 50], expected 2 multiples of the first"),
        ("decoder/config.json", {"block_out_channels": [0, 0]}, "[0, 0], expected 2 multiples of the first"),
        ("decoder/config.json", {"sample_size": 15}, "image_size 15 must be a multiple of 2"),
        ("decoder/config.json", {"out_channels": 3}, "needs unet.out_channels 6, got 3"),
        ("text_proj/config.json", {"time_embed_dim": 7}, "time_embed_dim is 7, expected 128"),
        ("super_res_last/config.json", {"layers_per_block": 2}, "another shape than"),
        ("super_res_first/config.json", {"sample_size": None}, "sample_size is None, expected a positive"),
        ("prior_scheduler/scheduler_config.json", {"beta_schedule": "linear"}, "beta_schedule is 'linear'"),
        ("decoder_scheduler/scheduler_config.json", {"prediction_type": "v"}, "expected one of epsilon, sample"),
        ("text_encoder/config.json", {"vocab_size": 100}, "vocab_size is 100, expected 49408"),
        ("text_encoder/config.json", {"hidden_act": "relu"}, "hidden_act is 'relu', expected gelu or quick_gelu"),
    ],
)
def test_configs_of_other_networks(root, file, changes, expected):
    edit(root / "karlo" / file, **changes)
    refused(file, expected)


@pytest.mark.parametrize("content", ["{", "[1, 2]", "\ud800"])
def test_a_config_that_is_no_json_object(root, content):
    (root / "karlo" / "prior" / "config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    refused("prior/config.json: not a JSON")


def test_a_pickle_with_code_is_never_run(root, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    path = root / "karlo" / "text_proj" / "diffusion_pytorch_model.bin"
    (root / "karlo" / "text_proj" / WEIGHTS).unlink()
    torch.save({"weight": torch.zeros(3), "x": Attack()}, path)
    name = f"{os.system.__module__}.{getattr(os.system, '__name__', '')}"
    refused(f"{path}: holds code (", "do not use this file")
    with pytest.raises(CheckpointError, match="holds code"):
        open_weights(WeightSet((path,), "fp32", 3))
    assert ran == [] and name


def test_damaged_pickles(root):
    good = root / "karlo" / "text_proj" / WEIGHTS
    path = good.with_suffix(".bin")
    torch.save(load_file(good), path)
    whole = path.read_bytes()
    assert count_pickled(path).parameters == sum(t.numel() for t in load_file(good).values())
    for content in (whole[: len(whole) // 2], whole[:1], b"", b"<!DOCTYPE html>", b"\x80\x02nonsense"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"text_proj/.*\.bin: .*download it again"):
            count_pickled(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        count_pickled(path)


def test_missing_unexpected_and_misshapen_tensors(root, monkeypatch):
    path = root / "karlo" / "decoder" / WEIGHTS
    state = load_file(path)
    state["stranger"] = state.pop("conv_in.bias")
    state["mid_block.attentions.0.to_k.weight"] = torch.zeros(7, 3)
    save_file(state, own(path))
    entry = catalog.find("karlo")
    read = []
    monkeypatch.setattr(tensors, "_read", lambda *place: read.append(place))
    with pytest.raises(CheckpointError) as error:
        load_network(entry.stages["decoder"])
    message = str(error.value)
    assert "missing: conv_in.bias (32,) in decoder/diffusion_pytorch_model.safetensors" in message
    assert "unexpected: stranger in decoder/" in message and "\n" not in message
    assert "mid_block.attentions.0.to_k.weight (7, 3) instead of (64, 64) in decoder/" in message
    assert read == []
    handle = load_stack(entry, "fp32", "cpu").decoder
    with pytest.raises(CheckpointError):
        handle.network.read()
    assert not handle.network.loaded


def test_tables_of_old_files_are_ignored(root):
    path = root / "karlo" / "text_encoder" / "model.safetensors"
    state = load_file(path) | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(state, own(path))
    clip = load_stack(catalog.find("karlo"), "fp32", "cpu").clip
    assert clip.encode_text(["a star"]).embed.isfinite().all()


def test_a_shard_index_leads_nowhere_else(root):
    folder = root / "karlo" / "prior"
    index = {"weight_map": {"a": f"../decoder/{WEIGHTS}"}}
    (folder / WEIGHTS).unlink()
    (folder / "x.safetensors.index.json").write_text(json.dumps(index))
    refused(f"prior/{WEIGHTS}: missing, though x.safetensors.index.json lists it")


def test_a_folders_files_are_read_once(root, touched):
    opened = touched("open", root)
    first = catalog.find("karlo")
    assert any(path.endswith("decoder/config.json") for path in opened)
    assert sorted(opened) == sorted(set(opened))
    opened.clear()
    assert catalog.find("karlo") == first and opened == []
