"""DDIM inversion: exact where the model is known, better refined than plain, finite on flat pictures."""

import pytest
import torch

from comfyui_unclip.unclip_core.config import ScheduleConfig
from comfyui_unclip.unclip_core.diffusion.denoiser import Denoiser
from comfyui_unclip.unclip_core.diffusion.invert import UNSOLVED, ddim_invert
from comfyui_unclip.unclip_core.diffusion.samplers import ddim
from comfyui_unclip.unclip_core.diffusion.schedule import MIN_INVERTIBLE, Schedule


def run(generator):
    states = []
    while True:
        try:
            states.append(next(generator))
        except StopIteration as stop:
            return stop.value, states


def gaussian(schedule, mu=0.2, s=0.4):
    """The exact denoiser of N(mu, s^2), as the schedule's prediction; zeros as variance channels where they belong."""
    config = schedule.config
    learned = config.variance == "learned_range"

    def network(x, step):
        alpha, sigma = step.alpha, step.sigma
        x_0 = mu + alpha * s**2 / (alpha**2 * s**2 + sigma**2) * (x - alpha * mu)
        eps = (x - alpha * x_0) / sigma
        output = {"x0": x_0, "eps": eps, "v": alpha * eps - sigma * x_0}[config.prediction]
        return torch.cat([output, torch.zeros_like(output)], 1) if learned else output

    return Denoiser(network, config.prediction, learned)


def setup(prediction="eps", variance="fixed_small", steps=20, name="cosine"):
    schedule = Schedule(ScheduleConfig(name=name, prediction=prediction, variance=variance))
    return schedule, schedule.steps_through(schedule.invertible_timesteps(steps))


def pictures():
    """Noise-like, white, black."""
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.2
    return torch.cat([x, torch.ones_like(x), -torch.ones_like(x)])


def way_back(denoise, x_T, steps):
    return run(ddim(denoise, x_T, steps))[0]


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_there_and_back_on_a_known_model(prediction, variance, name):
    schedule, steps = setup(prediction, variance, name=name)
    denoise, x_0 = gaussian(schedule), pictures()
    errors = {}
    for refine in (0, 2, 20):
        inverted, states = run(ddim_invert(denoise, x_0, steps, refine=refine, tolerance=1e-6))
        assert torch.isfinite(inverted.x_T).all() and states[0].t == 0
        errors[refine] = (way_back(denoise, inverted.x_T, steps) - x_0).flatten(1).norm(dim=1)
    assert errors[20].max() < 5e-3  # over 192 numbers, in float32
    assert (errors[2] < 0.5 * errors[0]).all() and (errors[20] <= errors[2] + 1e-4).all()


def test_the_start_of_typical_data_is_standard_normal():
    """x_T of N(mu, s^2) under DDIM's own map: the spread of a good inversion is the noise's."""
    schedule, steps = setup(steps=200)
    x_0 = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.2
    x_T = run(ddim_invert(gaussian(schedule), x_0, steps, refine=5))[0].x_T
    assert x_T.std().item() == pytest.approx(1.0, abs=0.05) and x_T.mean().item() == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("gain", [0.3, 1.0, 3.0])
def test_refined_is_never_worse_even_where_iterations_diverge(gain):
    _, steps = setup("v", steps=10)
    weight = torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(3)) * gain

    def network(x, step):
        return torch.tanh(torch.nn.functional.conv2d(x, weight, padding=1))

    denoise = Denoiser(network, "v")

    x_0 = pictures()
    plain, _ = run(ddim_invert(denoise, x_0, steps))
    refined, states = run(ddim_invert(denoise, x_0, steps, refine=6))
    errors = [(way_back(denoise, x.x_T, steps) - x_0).flatten(1).norm(dim=1) for x in (plain, refined)]
    assert torch.isfinite(refined.x_T).all()
    assert (errors[1] <= errors[0] * 1.0001).all()
    assert [state.index for state in states] == list(range(len(states)))
    # Only what stayed far from solved is tried against plain inversion.
    assert (len(states) == 10) == bool((refined.residual <= UNSOLVED).all()) or len(states) == 40


def test_residual_is_that_of_the_worst_step():
    schedule, steps = setup(steps=8)
    denoise = gaussian(schedule)
    inverted, states = run(ddim_invert(denoise, pictures(), steps))
    walked = [pictures(), *(state.x_t for state in states)]
    off = []
    for x_s, x_t, step in zip(walked, walked[1:], reversed(steps), strict=False):
        eps = denoise.network(x_t, step)
        forward = step.alpha_prev * (x_t - step.sigma * eps) / step.alpha + step.sigma_prev * eps
        off.append((forward - x_s).flatten(1).square().mean(1).sqrt())
    assert torch.allclose(inverted.residual, torch.stack(off).amax(0), atol=1e-4)


def test_items_do_not_influence_each_other():
    schedule, steps = setup(steps=8)
    denoise, x_0 = gaussian(schedule), pictures()
    together = run(ddim_invert(denoise, x_0, steps, refine=4, tolerance=1e-3))[0]
    for i in range(3):
        alone = run(ddim_invert(denoise, x_0[i : i + 1], steps, refine=4, tolerance=1e-3))[0]
        assert torch.allclose(together.x_T[i : i + 1], alone.x_T, atol=1e-5)


def test_one_forward_per_step_and_refinement():
    schedule, steps = setup(steps=8)
    calls, denoise = [], gaussian(schedule)

    def counting(x, step):
        calls.append(step.t)
        return denoise(x, step)

    run(ddim_invert(counting, pictures(), steps))
    assert calls == [0, *(step.t for step in reversed(steps))]
    calls.clear()
    run(ddim_invert(counting, pictures(), steps, refine=2, tolerance=1e-9))
    assert len(calls) >= 1 + 3 * 8


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_inversion_ends_where_alpha_bar_is_still_usable(name):
    schedule = Schedule(ScheduleConfig(name=name))
    first = schedule.invertible_timesteps(50)[0]
    assert schedule.alphas_cumprod[first] >= MIN_INVERTIBLE
    assert first == 999 or schedule.alphas_cumprod[first + 1] < MIN_INVERTIBLE
    assert len(set(schedule.invertible_timesteps(50))) == 50
    with pytest.raises(ValueError, match="steps must be a whole number from 1 to"):
        schedule.invertible_timesteps(1001)
