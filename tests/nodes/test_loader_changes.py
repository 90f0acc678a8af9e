"""Load unCLIP notices other weights, and nothing else; the key of `--cache` knows the weights by their content."""

import json
import os
import shutil

import pytest

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS
from comfyui_unclip.unclip_core.checkpoints import catalog
from comfyui_unclip.workflows.engine.disk_cache import Store

LOADER = NODE_CLASS_MAPPINGS["UnCLIPLoader"]


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv(catalog.ENVIRONMENT, str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return lambda: LOADER.IS_CHANGED(model_name="mine", dtype="auto")


def retrain(path):
    """Other weights, of the same size, in the same file."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    time = path.stat().st_mtime_ns
    path.write_bytes(data)
    os.utime(path, ns=(time, time + 10**9))


def test_a_native_stack(state, tiny_models, tmp_path):
    folder = shutil.copytree(tiny_models / "tiny", tmp_path / "models" / "mine")
    first = state()
    (folder / "README.md").write_text("notes")
    (folder / "sketch.png").write_text("a picture")
    assert state() == first
    retrain(folder / "prior.safetensors")
    second = state()
    assert second != first
    (folder / "upsampler_256.safetensors").unlink()
    assert state() != second


def test_an_eclipse_prior_comes_with_its_host_and_a_warning(state, host, karlo, family, tmp_path):
    karlo.write_karlo_folder(tmp_path / "models" / "karlo-v1-alpha")
    family.eclipse_prior(tmp_path / "models" / "mine", dim=karlo.KarloSizes().clip_dim)

    clip, prior, decoder, *_ = LOADER().load(model_name="mine", dtype="fp32")
    LOADER().load(model_name="karlo-v1-alpha", dtype="fp32")
    assert prior.config.one_pass and prior.config.clip_id == clip.clip_id == decoder.config.clip_id
    (warned,), taken_back = host.warnings
    assert "mine is experimental" in warned and "`unclip check mine`" in warned and taken_back == ()


def test_a_diffusers_folder(state, karlo, tmp_path):
    folder = tmp_path / "models" / "mine"
    karlo.write_karlo_folder(folder)
    store = Store(tmp_path / "cache", 1 << 30)
    first, weights = state(), store.weights_hash("mine")
    (folder / "README.md").write_text("notes")
    os.utime(folder)
    assert state() == first
    scheduler = folder / "prior_scheduler" / "scheduler_config.json"
    text = scheduler.read_text()
    scheduler.write_text(json.dumps(json.loads(text) | {"clip_sample_range": 7.0}))
    assert state() != first and store.weights_hash("mine") != weights
    scheduler.write_text(text)
    assert state() == first and store.weights_hash("mine") == weights
    for path in sorted(folder.rglob("*.safetensors")):
        before = state()
        retrain(path)
        assert state() != before, path
    assert store.weights_hash("mine") != weights
