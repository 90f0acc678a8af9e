"""Fitted tables on disk: where they are found, whose they are, and what is no table."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfyui_unclip.unclip_core.checkpoints import catalog
from comfyui_unclip.unclip_core.checkpoints.catalog import StackEntry
from comfyui_unclip.unclip_core.checkpoints.header import CheckpointError, read_header
from comfyui_unclip.unclip_core.checkpoints.tables import (
    ANALYTIC,
    PCA,
    find_table,
    read_basis,
    read_noise_powers,
    save_basis,
    save_noise_powers,
)
from comfyui_unclip.unclip_core.clip.pca import basis_of, fit_pca
from comfyui_unclip.unclip_core.stack import load_stack


@pytest.fixture
def entry(tmp_path, monkeypatch):
    """A stack's place; no other model folder exists."""
    monkeypatch.delenv(catalog.ENVIRONMENT, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "own" / "mine").mkdir(parents=True)
    return StackEntry("mine", tmp_path / "own" / "mine")


@pytest.fixture
def basis():
    return fit_pca(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), "clip-a")


def test_a_basis_comes_back_as_it_was(entry, basis):
    save_basis(entry.folder / "mine.pca.safetensors", basis, {"pictures": "50"})
    found = read_basis(entry, "clip-a")
    assert found.clip_id == "clip-a"
    for name in ("mean", "components", "variance"):
        assert torch.equal(getattr(found, name), getattr(basis, name))
    metadata, _ = read_header(entry.folder / "mine.pca.safetensors")
    assert metadata["pictures"] == "50" and metadata["table"] == PCA


def test_noise_powers_come_back_as_they_were(entry):
    powers = torch.linspace(0, 1, 20, dtype=torch.float64)
    save_noise_powers(entry.folder / "mine.analytic.safetensors", powers, "prior-a")
    assert torch.equal(read_noise_powers(entry, "prior-a", 20), powers)


def test_a_model_folders_table_wins_over_the_stacks_own(entry, basis, tmp_path, monkeypatch):
    save_basis(entry.folder / "was-called-otherwise.pca.safetensors", basis)
    assert find_table(entry, PCA).parent == entry.folder and find_table(entry, ANALYTIC) is None
    for root, mark in (("second", 2.0), ("first", 1.0)):
        other = fit_pca(torch.randn(50, 6) * mark, "clip-a")
        save_basis(tmp_path / root / "mine.pca.safetensors", other)
        save_basis(tmp_path / root / "others.pca.safetensors", other)
    monkeypatch.setenv(catalog.ENVIRONMENT, str(tmp_path / "second"))
    assert find_table(entry, PCA) == tmp_path / "second" / "mine.pca.safetensors"
    assert find_table(entry, PCA, [tmp_path / "first"]) == tmp_path / "first" / "mine.pca.safetensors"


def test_no_table_names_the_command_that_makes_one(entry):
    with pytest.raises(
        ValueError, match=r"model 'mine' has no PCA basis; .*`unclip fit-pca --clip mine --data FOLDER`"
    ):
        read_basis(entry, "clip-a")
    with pytest.raises(ValueError, match=r"has no table for the sampler analytic_ddpm; .*`unclip fit-analytic --prior"):
        read_noise_powers(entry, "prior-a", 20)


def test_anothers_table_is_refused(entry, basis):
    save_basis(entry.folder / "mine.pca.safetensors", basis)
    with pytest.raises(
        ValueError, match=r"fitted on the CLIP clip-a, but that of model 'mine' is clip-b; fit it again"
    ):
        read_basis(entry, "clip-b")
    save_noise_powers(entry.folder / "mine.analytic.safetensors", torch.ones(20), "prior-a")
    with pytest.raises(ValueError, match="fitted on the prior prior-a, but that of model 'mine' is prior-b"):
        read_noise_powers(entry, "prior-b", 20)
    with pytest.raises(CheckpointError, match=r"\(20,\) noise powers, but the prior has 30 timesteps"):
        read_noise_powers(entry, "prior-a", 30)


def test_what_is_no_table_is_refused(entry, basis):
    path = entry.folder / "mine.pca.safetensors"
    save_basis(path, basis)
    metadata, tensors = read_header(path)[0], load_file(path)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="not a pca table of format 1"):
        read_basis(entry, "clip-a")
    save_file({"mean": tensors["mean"]}, path, metadata)
    with pytest.raises(CheckpointError, match="lacks components, variance; fit it again"):
        read_basis(entry, "clip-a")
    save_file({**tensors, "variance": tensors["variance"][:3].clone()}, path, metadata)
    with pytest.raises(CheckpointError, match="are no PCA basis"):
        read_basis(entry, "clip-a")
    save_file({**tensors, "mean": tensors["mean"] * float("nan")}, path, metadata)
    with pytest.raises(CheckpointError, match="mean holds NaN or infinity"):
        read_basis(entry, "clip-a")
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        read_basis(entry, "clip-a")


def test_handles_carry_their_stacks_tables(tiny_stack):
    stack = load_stack(catalog.find(tiny_stack), "fp32", "cpu")
    assert basis_of(stack.clip).clip_id == stack.clip.clip_id and basis_of(stack.clip).dim == 24
    assert stack.prior.noise_powers().shape == (1000,)
