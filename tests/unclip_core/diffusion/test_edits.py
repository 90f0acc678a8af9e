"""Edited predictions of x_0: what a sampler goes on with is exactly what the edit returned."""

import pytest
import torch

from comfyui_unclip.unclip_core.config import ScheduleConfig
from comfyui_unclip.unclip_core.diffusion.edits import edit_x0, keep_known
from comfyui_unclip.unclip_core.diffusion.noise import ItemNoise
from comfyui_unclip.unclip_core.diffusion.samplers import SAMPLERS
from comfyui_unclip.unclip_core.diffusion.schedule import Schedule

every_prediction = pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
every_sampler = pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])


def network(channels=3):
    weight = torch.randn(channels, 3, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.2
    return lambda x, t: torch.nn.functional.conv2d(x, weight, padding=1)


def sample(sampler, model, steps, rows=2, eta=0.5, clamp=1.0):
    states = []
    noise = ItemNoise(0, rows, "x")
    generator = SAMPLERS[sampler](model, noise.draw((3, 8, 8)), steps, noise=noise, eta=eta, x0_clamp=clamp)
    states.extend(generator)
    return states


@every_prediction
@every_sampler
def test_an_edit_that_changes_nothing_changes_nothing(sampler, prediction):
    steps = Schedule(ScheduleConfig(prediction=prediction)).respace(6)
    model, seen = network(), []

    def look(x_0, sigma):
        seen.append((x_0.abs().max().item(), sigma))
        return x_0

    plain = sample(sampler, model, steps)
    edited = sample(sampler, edit_x0(model, [look]), steps)
    assert all(torch.equal(a.x0, b.x0) and torch.equal(a.x_t, b.x_t) for a, b in zip(plain, edited, strict=True))
    assert max(top for top, _ in seen) <= 1.0
    assert [float(sigma) for _, sigma in seen] == pytest.approx([step.sigma for step in steps])
    assert edit_x0(model, []) is model


@every_prediction
@every_sampler
@pytest.mark.parametrize("clamp", [1.0, None])
def test_every_step_has_the_edited_x0_to_the_last_bit(sampler, prediction, clamp):
    """Karlo's first step has alpha 5e-5, by which a way through eps would divide."""
    steps = Schedule(ScheduleConfig(prediction=prediction)).respace(6)
    known = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    states = sample(sampler, edit_x0(network(), [lambda x_0, sigma: known]), steps, clamp=clamp)
    assert all(torch.equal(state.x0, known) for state in states)
    assert torch.equal(states[-1].x_t, known)


def test_a_learned_variance_is_the_networks_own():
    """Edits change x_0 alone: with x_0 given, another variance is another draw about the same mean."""
    steps = Schedule(ScheduleConfig(variance="learned_range")).respace(4)
    known, model = torch.zeros(2, 3, 8, 8), network(6)

    def wider(x, t):
        return torch.cat([model(x, t)[:, :3], torch.ones_like(x)], dim=1)

    own, wide, by_hand = (
        sample("ddpm", edit_x0(each, [lambda x_0, sigma: known]), steps)
        for each in (model, wider, lambda x, t: torch.cat([x * 0, model(x, t)[:, 3:]], dim=1))
    )
    assert torch.equal(own[0].x_t, by_hand[0].x_t) and not torch.equal(own[0].x_t, wide[0].x_t)


@every_prediction
@every_sampler
def test_the_known_region_ends_as_it_was_given(sampler, prediction):
    steps = Schedule(ScheduleConfig(prediction=prediction)).respace(6)
    known = torch.rand(2, 3, 8, 8) * 2 - 1
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1.0
    result = sample(sampler, edit_x0(network(), [keep_known(known, mask)]), steps)[-1].x_t
    outside = (mask == 0).expand_as(known)
    assert torch.equal(result[outside], known[outside])
    assert (result - known)[~outside].abs().mean() > 0.1


def test_the_known_region_has_each_levels_noise():
    """Its x_s is distributed as q(x_s | x_0): mean alpha x_0, standard deviation sigma."""
    steps = Schedule(ScheduleConfig()).respace(8)
    known, mask = torch.full((400, 3, 8, 8), 0.5), torch.zeros(400, 1, 8, 8)
    model = edit_x0(network(), [keep_known(known, mask)])
    for state, step in zip(sample("ddpm", model, steps, rows=400), steps, strict=True):
        assert state.x_t.mean().item() == pytest.approx(0.5 * step.alpha_prev, abs=0.02)
        assert state.x_t.std().item() == pytest.approx(step.sigma_prev, abs=0.02)
