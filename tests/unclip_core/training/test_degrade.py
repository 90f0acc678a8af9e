"""How training inputs of the upsamplers are spoilt."""

import math
import random

import pytest
import torch
import torch.nn.functional as F

from comfyui_unclip.unclip_core.training import degrade as degrading
from comfyui_unclip.unclip_core.training.degrade import anisotropic_blur, degrade, gaussian_blur


@pytest.fixture(scope="module")
def pictures(story):
    return story.pictures(list(range(16)))


FACTOR = 2


def spoil(pictures, kind, level, seed=0, **options):
    """At a level for all rows; None: a network that is not told."""
    levels = None if level is None else torch.full((len(pictures),), float(level))
    options = {"noise": 0.12, **options}
    return degrade(pictures, FACTOR, kind, levels, random.Random(seed), torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("kind", ["blur", "bsr"])
def test_level_zero_is_nearly_clean_and_higher_levels_are_worse(kind, pictures):
    clean, errors = F.avg_pool2d(pictures, FACTOR), []
    for level in (0.0, 0.5, 1.0):
        made = [spoil(pictures, kind, level, seed) for seed in range(4)]
        assert all(x.shape == clean.shape and x.abs().max() <= 1 for x in made)
        errors.append(sum((x - clean).square().mean().item() for x in made) / 4)
    assert errors[0] < 3e-3  # of a span of 2: about 31 dB
    assert errors[0] * 2 < errors[1] and errors[1] * 1.3 < errors[2]


@pytest.mark.parametrize("kind", ["blur", "bsr"])
def test_the_same_generators_spoil_the_same_way(kind, pictures):
    clean = pictures.clone()
    first = spoil(pictures, kind, 0.7)
    assert torch.equal(first, spoil(pictures, kind, 0.7))
    assert not torch.equal(first, spoil(pictures, kind, 0.7, seed=1))
    assert torch.equal(pictures, clean)


def test_each_row_has_its_own_level(pictures):
    levels, clean = torch.tensor([0.0, 1.0]).repeat(8), F.avg_pool2d(pictures, FACTOR)
    generator = torch.Generator().manual_seed(0)
    made = degrade(pictures, FACTOR, "bsr", levels, random.Random(0), generator, noise=0.12)
    errors = (made - clean).square().flatten(1).mean(1)
    assert errors[1::2].mean() > 4 * errors[0::2].mean()


def test_the_papers_blur_is_a_gaussian_of_every_row_and_nothing_else(pictures):
    """App. C: kernel 3, sigma 0.6."""
    wanted = gaussian_blur(F.avg_pool2d(pictures, FACTOR), 0.6, 3)
    torch.testing.assert_close(spoil(pictures, "blur", None, noise=0.0), wanted)
    shares = spoil(pictures.repeat(8, 1, 1, 1), "blur", None, noise=0.0, blur_share=0.5)
    same = (shares == F.avg_pool2d(pictures, FACTOR).repeat(8, 1, 1, 1)).flatten(1).all(1)
    assert 0.3 < same.float().mean() < 0.7


def test_bsr_blurs_in_all_directions_shrinks_in_steps_and_shuffles(monkeypatch):
    """Of its 360 orders many are met; blurs that are not round, several filters, every size on the way."""
    seen, kernels = [], []
    for name in ("_any_blur", "_shrink", "_noise", "_jpeg"):
        step = getattr(degrading, name)
        monkeypatch.setattr(degrading, name, lambda *given, step=step, name=name: seen.append(name) or step(*given))
    blur = degrading.anisotropic_blur
    monkeypatch.setattr(degrading, "anisotropic_blur", lambda *given: kernels.append(given[1:4]) or blur(*given))
    orders = set()
    for seed in range(60):
        seen.clear()
        assert spoil(torch.rand(1, 3, 32, 32) * 2 - 1, "bsr", None, seed).shape == (1, 3, 16, 16)
        assert seen.count("_shrink") == 2
        orders.add(tuple(seen))
    assert len(orders) > 30
    odd = [along / across for along, across, _ in kernels if along != across]
    assert 0.3 < len(odd) / len(kernels) < 0.7 and max(odd) > 2
    assert len({round(angle, 3) for *_, angle in kernels}) > 20


def test_none_shrinks_alone_and_an_unknown_kind_is_refused(pictures):
    assert torch.equal(spoil(pictures, "none", 1.0), F.avg_pool2d(pictures, FACTOR))
    with pytest.raises(ValueError, match="augmentation 'fog' is unknown; choose none, blur or bsr"):
        spoil(pictures, "fog", 1.0)


def test_a_blur_has_two_widths_and_a_direction():
    dot = torch.zeros(1, 1, 31, 31)
    dot[0, 0, 15, 15] = 1.0
    blurred = anisotropic_blur(dot, 3.0, 1.0, math.pi / 6, 31)[0, 0]
    y, x = torch.meshgrid(*[torch.arange(-15.0, 16.0)] * 2, indexing="ij")
    covariance = torch.stack([(blurred * a * b).sum() for a, b in ((x, x), (x, y), (y, y))])
    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    wanted = torch.tensor([9 * c * c + s * s, 8 * c * s, 9 * s * s + c * c])
    torch.testing.assert_close(covariance, wanted, rtol=2e-2, atol=0.0)


def test_a_wide_round_blur_in_two_passes_is_that_of_one(pictures):
    one = anisotropic_blur(pictures, 4.0, 4.0 + 1e-9, 0.0, 21)
    torch.testing.assert_close(gaussian_blur(pictures, 4.0, 21), one, atol=1e-5, rtol=0)


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
