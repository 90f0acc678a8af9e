"""Edited predictions of x_0: no edit is no change, and a known region carries just each level's noise."""

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
        seen.append((x_0.abs().max().item(), sigma.shape, sigma.flatten()[0].item()))
        return x_0

    plain = sample(sampler, model, steps)[-1].x_t
    edited = sample(sampler, edit_x0(model, steps, [look], 1.0, torch.device("cpu")), steps)[-1].x_t
    assert torch.allclose(plain, edited, atol=5e-3)  # float32: at the first step alpha is 5e-5
    assert max(top for top, _, _ in seen) <= 1.0 and {shape for _, shape, _ in seen} == {(2, 1, 1, 1)}
    assert [sigma for _, _, sigma in seen] == pytest.approx([step.sigma for step in steps])
    assert edit_x0(model, steps, [], 1.0, torch.device("cpu")) is model


def test_variance_channels_pass_through():
    steps = Schedule(ScheduleConfig(variance="learned_range")).respace(4)
    model = network(6)
    edited = edit_x0(model, steps, [lambda x_0, sigma: x_0 * 0], None, torch.device("cpu"))
    x, t = torch.randn(2, 3, 8, 8), torch.full((2,), steps.timesteps[1])
    assert torch.equal(edited(x, t)[:, 3:], model(x, t)[:, 3:])


@every_prediction
@every_sampler
def test_the_known_region_ends_as_it_was_given(sampler, prediction):
    steps = Schedule(ScheduleConfig(prediction=prediction)).respace(6)
    known = torch.rand(2, 3, 8, 8) * 2 - 1
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1.0
    model = edit_x0(network(), steps, [keep_known(known, mask)], 1.0, torch.device("cpu"))
    result = sample(sampler, model, steps)[-1].x_t
    outside = (mask == 0).expand_as(known)
    assert (result - known)[outside].abs().max() < 1e-3
    assert (result - known)[~outside].abs().mean() > 0.1


def test_the_known_region_has_each_levels_noise():
    """Its x_s is distributed as q(x_s | x_0): mean alpha x_0, standard deviation sigma."""
    steps = Schedule(ScheduleConfig()).respace(8)
    known, mask = torch.full((400, 3, 8, 8), 0.5), torch.zeros(400, 1, 8, 8)
    model = edit_x0(network(), steps, [keep_known(known, mask)], 1.0, torch.device("cpu"))
    for state, step in zip(sample("ddpm", model, steps, rows=400), steps, strict=True):
        assert state.x_t.mean().item() == pytest.approx(0.5 * step.alpha_prev, abs=0.02)
        assert state.x_t.std().item() == pytest.approx(step.sigma_prev, abs=0.02)
