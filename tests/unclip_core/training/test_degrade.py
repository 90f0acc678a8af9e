"""How training inputs of the upsamplers are spoilt."""

import random

import pytest
import torch

from comfyui_unclip.unclip_core.training.degrade import degrade, gaussian_blur


@pytest.fixture(scope="module")
def pictures(story):
    return story.pictures(list(range(16)))


def spoil(pictures, kind, level, seed=0):
    levels = torch.full((len(pictures),), float(level))
    return degrade(pictures, kind, levels, random.Random(seed), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["blur", "bsr"])
def test_level_zero_is_nearly_clean_and_higher_levels_are_worse(kind, pictures):
    errors = []
    for level in (0.0, 0.5, 1.0):
        made = [spoil(pictures, kind, level, seed) for seed in range(4)]
        assert all(x.shape == pictures.shape and x.abs().max() <= 1 for x in made)
        errors.append(sum((x - pictures).square().mean().item() for x in made) / 4)
    assert errors[0] < 2e-3  # of a span of 2: about 33 dB
    assert errors[0] * 2 < errors[1] and errors[1] * 1.3 < errors[2]


@pytest.mark.parametrize("kind", ["blur", "bsr"])
def test_the_same_generators_spoil_the_same_way(kind, pictures):
    clean = pictures.clone()
    first = spoil(pictures, kind, 0.7)
    assert torch.equal(first, spoil(pictures, kind, 0.7))
    assert not torch.equal(first, spoil(pictures, kind, 0.7, seed=1))
    assert torch.equal(pictures, clean)


def test_each_row_has_its_own_level(pictures):
    levels = torch.tensor([0.0, 1.0]).repeat(8)
    made = degrade(pictures, "bsr", levels, random.Random(0), torch.Generator().manual_seed(0))
    errors = (made - pictures).square().flatten(1).mean(1)
    assert errors[1::2].mean() > 4 * errors[0::2].mean()


def test_none_changes_nothing_and_an_unknown_kind_is_refused(pictures):
    assert torch.equal(spoil(pictures, "none", 1.0), pictures)
    with pytest.raises(ValueError, match="augmentation 'fog' is unknown; choose none, blur or bsr"):
        spoil(pictures, "fog", 1.0)


def test_the_blur_is_a_gaussian():
    dot = torch.zeros(1, 3, 9, 9)
    dot[0, 1, 4, 4] = 1.0
    blurred = gaussian_blur(dot, 1.0, 7)
    assert blurred[0, 0].abs().max() == 0 and blurred[0, 1].sum().item() == pytest.approx(1.0)
    assert (blurred[0, 1, 4, 5] / blurred[0, 1, 4, 4]).item() == pytest.approx(2.718281828**-0.5, rel=1e-5)
    torch.testing.assert_close(blurred[0, 1], blurred[0, 1].T)
    flat = torch.full((1, 3, 5, 5), 0.3)
    torch.testing.assert_close(gaussian_blur(flat, 0.6), flat)  # edges too
    assert gaussian_blur(dot, 0.0) is dot
