"""`unclip fit-pca` and `unclip fit-analytic`: from pictures to tables that the handles read."""

import pytest
import torch
from PIL import Image

from comfyui_unclip.unclip_core.checkpoints import catalog
from comfyui_unclip.unclip_core.checkpoints.header import read_header
from comfyui_unclip.unclip_core.clip.pca import basis_of
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.workflows.cli import run


@pytest.fixture
def tiny(tiny_stack, tiny_models, tmp_path, monkeypatch):
    """A working folder whose `models` is searched, and written, before the folder of the stack `tiny`."""
    monkeypatch.setenv(catalog.ENVIRONMENT, f"{tmp_path / 'models'}:{tiny_models}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    return tmp_path


@pytest.fixture
def photos(tmp_path):
    """Thirty captioned pictures of one colour each, of different sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(30):
        Image.new("RGB", (50 + i, 70), (8 * i, 255 - 8 * i, (37 * i) % 256)).save(folder / f"{i:02}.png")
        (folder / f"{i:02}.txt").write_text("a red star" if i % 2 else "a blue boat", encoding="utf-8")
    return folder


def stack():
    return load_stack(catalog.find("tiny"), "fp32", "cpu")


def test_a_basis_is_fitted_on_a_folder_and_used(tiny, photos, capsys):
    before = basis_of(stack().clip)
    assert run(["fit-pca", "--clip", "tiny", "--data", str(photos)]) == 0
    path = tiny / "models" / "tiny.pca.safetensors"
    shown = capsys.readouterr().out
    assert f"wrote {path}" in shown and "24 components of 30 pictures" in shown and "keep 99%" in shown
    basis = basis_of(stack().clip)
    assert not torch.equal(basis.components, before.components)
    assert (basis.variance[:-1] >= basis.variance[1:]).all() and basis.variance[0] > 0
    assert read_header(path)[0]["pictures"] == "30"
    clip = stack().clip
    vectors = torch.cat(
        [clip.encode_image(torch.full((1, 64, 64, 3), 0.1) * torch.tensor([k, 1.0, 3.0])).vector for k in (1.0, 9.0)]
    )
    assert (basis.reconstruct(vectors, 24) - vectors).norm() < 1e-3


def test_rendered_scenes_and_few_pictures(tiny, capsys):
    output = tiny / "other.pca.safetensors"
    assert run(["fit-pca", "--clip", "tiny", "--pictures", "10", "-o", str(output)]) == 0
    assert "10 pictures for 24 dimensions; the last components are arbitrary" in capsys.readouterr().out
    assert output.exists() and (tiny / "data" / "storybook" / "storybook-10-1.npy").exists()


def test_a_prior_is_measured_and_then_samples_analytically(tiny, photos, capsys):
    before = stack().prior.noise_powers()
    assert run(["fit-analytic", "--prior", "tiny", "--data", str(photos), "--pairs", "6"]) == 0
    assert "wrote" in capsys.readouterr().out
    handles = stack()
    powers = handles.prior.noise_powers()
    assert powers.shape == (1000,) and powers.dtype == torch.float64 and not torch.equal(powers, before)
    assert powers.min() >= 0 and powers.max() <= 1 and powers[-1] > 0.999
    text = handles.clip.encode_text(["a red star"])
    found = handles.prior.sample(text, sampler="analytic_ddpm", seed=1).vector
    assert found.isfinite().all() and not torch.allclose(found, handles.prior.sample(text, seed=1).vector)


def test_what_cannot_be_fitted_ends_with_one_line_and_code_2(tiny, monkeypatch, capsys):
    assert run(["fit-pca", "--clip", "nobody"]) == 2
    assert "no model 'nobody'; put a folder " in capsys.readouterr().err
    assert run(["fit-analytic", "--prior", "tiny", "--data", "nothing-here"]) == 2
    assert "--data nothing-here: no pictures found" in capsys.readouterr().err
    monkeypatch.setattr("comfyui_unclip.unclip_core.checkpoints.catalog.writable_folder", lambda *_: None)
    assert run(["fit-pca", "--clip", "tiny", "--pictures", "10"]) == 2
    assert "no model folder to write tiny.pca.safetensors to; set $UNCLIP_MODELS or give --output" in (
        capsys.readouterr().err
    )
