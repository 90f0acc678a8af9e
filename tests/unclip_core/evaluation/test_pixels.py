"""Lattices and halos, against pictures that have as much of them as was put in."""

import pytest
import torch
import torch.nn.functional as F

from comfyui_unclip.unclip_core.evaluation.pixels import lattice_energies, overshoot


def noise(count, side, seed=0):
    return torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("side", "period"), [(64, 2), (64, 4), (256, 4)])
def test_a_lattice_stands_out_of_noise_by_what_was_added(side, period):
    def ratio(pictures):
        peaks, around = lattice_energies(pictures, period)
        return sum(peaks) / sum(around)

    plain = noise(24, side)
    assert ratio(plain) == pytest.approx(1.0, abs=0.3)  # white: as much everywhere
    steps = torch.arange(side) % period == 0
    dots = (steps[:, None] & steps[None]).float()[..., None]
    # The sparser the dots, the less of them at one frequency.
    weak, strong = (ratio(plain + height * (period / 2) ** 2 * dots) for height in (0.04, 0.12))
    assert ratio(plain) + 0.2 < weak < strong and strong > 3
    elsewhere = (torch.arange(side) % (4 * period) < 2 * period).float()[:, None, None]
    assert ratio(plain + 0.2 * elsewhere) < 1.5  # another period is not this one's


def test_a_lattice_must_fit_the_picture():
    with pytest.raises(ValueError, match="a period of 3 does not fit pictures of 64 px"):
        lattice_energies(noise(1, 64), 3)


def test_overshoot_is_what_lies_beyond_the_true_colours_near_edges():
    true = torch.full((1, 32, 32, 3), 0.25)
    true[:, :, 16:] = 0.75
    assert overshoot(true, true, 4) == [0.0]
    blurred = F.avg_pool2d(true.movedim(-1, 1), 5, 1, 2, count_include_pad=False).movedim(1, -1)
    assert overshoot(blurred, true, 4)[0] == pytest.approx(0.0, abs=1e-4)  # soft is no halo
    ringing = true.clone()
    ringing[:, :, 15] -= 0.1
    ringing[:, :, 16] += 0.1
    # The edge's neighbourhood is 4 px to either side, of which the two columns go 25.5 levels beyond.
    assert overshoot(ringing, true, 4)[0] == pytest.approx(25.5 * 2 / 8, rel=1e-4)
    far = true.clone()
    far[:, :, 2] += 0.1
    assert overshoot(far, true, 4) == [0.0]  # not at an edge
