"""Principal components of embeddings: fitted in the right order, exact where exactness is due, refused where not."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from comfyui_unclip.unclip_core.clip.model import Clip
from comfyui_unclip.unclip_core.clip.pca import basis_of, fit_pca, project
from comfyui_unclip.unclip_core.config import ClipConfig
from comfyui_unclip.unclip_core.types import Embedding

DIM = 8
STD = torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05])


@pytest.fixture(scope="module")
def turned():
    """A rotation, a mean, and 4000 vectors that spread by STD along the rotation's rows."""
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))[0]
    mean = torch.randn(DIM, generator=generator)
    return rotation, mean, mean + (torch.randn(4000, DIM, generator=generator) * STD) @ rotation


@pytest.fixture(scope="module")
def basis(turned):
    return fit_pca(turned[2], "tiny")


def test_components_are_the_axes_the_widest_first(turned, basis):
    rotation, mean, _ = turned
    assert torch.allclose(basis.variance.sqrt(), STD, rtol=0.05)
    assert (basis.components * rotation).sum(1).abs().min() > 0.99
    assert torch.allclose(basis.mean, mean, atol=0.3)
    assert torch.allclose(basis.components @ basis.components.T, torch.eye(DIM), atol=1e-5)


def test_the_same_pictures_give_the_same_basis(turned, basis):
    again = fit_pca(turned[2].flip(0), "tiny")
    assert torch.allclose(again.components, basis.components, atol=1e-4)  # signs included


def test_explained_variance_and_how_many_it_takes(basis):
    assert basis.explained(DIM) == pytest.approx(1.0) and basis.explained(0) == 0.0
    first = STD[0].square() / STD.square().sum()
    assert basis.explained(1) == pytest.approx(first.item(), rel=0.05)
    for share in (0.1, 0.5, 0.9, 0.99, 1.0):
        count = basis.needed(share)
        assert basis.explained(count) >= share - 1e-6
        assert count == 1 or basis.explained(count - 1) < share


def test_few_components_leave_the_mean_all_leave_nothing_out(turned, basis):
    vectors = turned[2][:5]
    whole = project(Embedding(vectors, "tiny"), basis, [DIM]).vector
    assert torch.allclose(whole, vectors, atol=1e-4)
    errors = [
        (project(Embedding(vectors, "tiny"), basis, [count]).vector - vectors).norm() for count in range(1, DIM + 1)
    ]
    assert all(more < fewer for fewer, more in pairwise(errors))
    centre = Embedding(basis.mean[None], "tiny")
    assert torch.allclose(project(centre, basis, [1]).vector, basis.mean[None], atol=1e-5)


def test_projecting_twice_is_projecting_once(turned, basis):
    once = project(Embedding(turned[2][:3], "tiny"), basis, [2])
    assert torch.allclose(project(once, basis, [2]).vector, once.vector, atol=1e-5)


@pytest.mark.parametrize("norm", [1.0, 10.0])
def test_native_scale_is_kept(norm):
    vectors = F.normalize(torch.randn(500, DIM, generator=torch.Generator().manual_seed(1)), dim=-1) * norm
    basis = fit_pca(vectors, "tiny")
    unit = project(Embedding(vectors[:4], "tiny"), basis, [3, DIM], unit_norm=norm == 1.0).vector
    assert torch.allclose(unit[1::2], vectors[:4], atol=1e-4 * norm)
    if norm == 1.0:
        assert torch.allclose(unit.norm(dim=1), torch.ones(8), atol=1e-5)
    else:
        assert (unit[::2].norm(dim=1) < norm).all()


def test_rows_of_one_item_lie_side_by_side(turned, basis):
    embed = Embedding(turned[2][:3], "tiny", "text")
    rows = project(embed, basis, [4, 1, 8])
    assert rows.vector.shape == (9, DIM) and rows.modality == "text" and rows.clip_id == "tiny"
    for item in range(3):
        for place, count in enumerate((4, 1, 8)):
            alone = project(Embedding(turned[2][item : item + 1], "tiny"), basis, [count]).vector[0]
            assert torch.allclose(rows.vector[3 * item + place], alone, atol=1e-5)


def test_wrong_values_are_refused_with_the_fix(turned, basis):
    embed = Embedding(turned[2][:1], "tiny")
    for counts, message in (
        ([], "component_counts is empty; give numbers from 1 to 8"),
        ([3, 0], r"whole numbers from 1 to 8 .* got 0"),
        ([9], "got 9"),
        ([2.5], "got 2.5"),
        ([True], "got True"),
    ):
        with pytest.raises(ValueError, match=message):
            project(embed, basis, counts)
    with pytest.raises(ValueError, match=r"fitted on tiny, but the embedding is of other; .*`unclip fit-pca`"):
        project(Embedding(turned[2][:1], "other"), basis, [2])
    with pytest.raises(ValueError, match="got 6-d"):
        project(Embedding(turned[2][:1, :6], "tiny"), basis, [2])
    with pytest.raises(ValueError, match="embed must be an Embedding, got Tensor; link CLIP Image Encode"):
        project(turned[2], basis, [2])
    with pytest.raises(ValueError, match=r"at least 2 embeddings .* got shape \(1, 8\)"):
        fit_pca(turned[2][:1], "tiny")


def test_a_clip_without_a_basis_says_so():
    clip = Clip(ClipConfig(clip_id="lonely"))
    with pytest.raises(ValueError, match="PCA Project: the CLIP lonely was opened without its model's folder"):
        basis_of(clip)

    def missing():
        raise ValueError("model 'lonely' has no PCA basis; fit one")

    clip = Clip(ClipConfig(clip_id="lonely"), pca=missing)
    with pytest.raises(ValueError, match="PCA Project: model 'lonely' has no PCA basis; fit one"):
        basis_of(clip)
