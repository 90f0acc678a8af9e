"""The null embedding is made once for the same files, and never comes from a damaged or foreign one."""

import os
from types import SimpleNamespace

import pytest
import torch

from comfyui_unclip.unclip_core.checkpoints.header import read_stage
from comfyui_unclip.unclip_core.checkpoints.null_image import cache_folder, remembered_null_image
from comfyui_unclip.unclip_core.types import Embedding


@pytest.fixture
def store(tmp_path, monkeypatch, tiny_models):
    """A CLIP on disk, and `ask()`, which returns the null embedding and counts how often it was made."""
    monkeypatch.setenv("UNCLIP_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "clip.safetensors"
    path.write_bytes((tiny_models / "tiny" / "clip.safetensors").read_bytes())
    made = []

    def encode():
        made.append(torch.randn(1, 24))
        return Embedding(made[-1], "tiny-1")

    return SimpleNamespace(
        path=path, made=made, folder=tmp_path, ask=lambda: remembered_null_image(read_stage(path), encode)
    )


def test_it_is_made_once(store):
    first, again = store.ask(), store.ask()
    assert len(store.made) == 1 and torch.equal(first.vector, again.vector)
    assert again.clip_id == "tiny-1" and again.modality == "image"
    assert [path.name for path in store.folder.iterdir() if path.is_file()] == ["clip.safetensors"]


def test_other_files_have_another(store):
    store.ask()
    os.utime(store.path, ns=(1, 1))
    store.ask()
    assert len(store.made) == 2


def test_a_damaged_one_is_made_again(store):
    store.ask()
    (kept,) = (cache_folder() / "null_images").iterdir()
    for damage in (b"", kept.read_bytes()[:-20]):
        kept.write_bytes(damage)
        found = store.ask()
        assert torch.equal(found.vector, store.made[-1])
    assert len(store.made) == 3


def test_a_cache_that_cannot_be_written_is_no_error(store, monkeypatch):
    (store.folder / "file").write_text("")
    monkeypatch.setenv("UNCLIP_CACHE", str(store.folder / "file" / "cache"))
    for count in (1, 2):
        assert store.ask().vector.shape == (1, 24) and len(store.made) == count


def test_the_place_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("UNCLIP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "unclip"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "unclip"
