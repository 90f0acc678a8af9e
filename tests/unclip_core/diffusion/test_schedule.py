"""Schedules against diffusers' betas and against the formulas they come from."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UnCLIPScheduler

from comfyui_unclip.unclip_core.config import ScheduleConfig
from comfyui_unclip.unclip_core.diffusion.schedule import (
    Schedule,
    interpolate_log_variance,
    make_betas,
    respaced_timesteps,
    to_x0_eps,
)


@pytest.mark.parametrize(("ours", "theirs"), [("cosine", "squaredcos_cap_v2"), ("linear", "linear")])
def test_betas_equal_diffusers(ours, theirs):
    schedule = Schedule(ScheduleConfig(name=ours))
    reference = DDPMScheduler(1000, beta_schedule=theirs, beta_start=1e-4, beta_end=0.02)
    assert torch.allclose(schedule.betas, reference.betas, rtol=1e-5, atol=1e-7)
    assert torch.allclose(schedule.alphas_cumprod, reference.alphas_cumprod, rtol=1e-4, atol=1e-7)
    assert schedule.alphas_cumprod.dtype == torch.float32


def test_cosine_ends_at_its_known_value():
    schedule = Schedule(ScheduleConfig())
    assert schedule.alphas_cumprod[-1].item() == pytest.approx(2.4288e-9, rel=1e-4)
    assert schedule.alphas_cumprod[0].item() == pytest.approx(1 - 4.128e-5, abs=1e-7)


def test_linear_keeps_its_end_for_other_lengths():
    long, short = (Schedule(ScheduleConfig(name="linear", timesteps=n)) for n in (1000, 250))
    assert math.log(short.alphas_cumprod[-1]) == pytest.approx(math.log(long.alphas_cumprod[-1]), rel=0.05)


@pytest.mark.parametrize("timesteps", [10, 250, 1000])
def test_respacing_is_rounded_linspace(timesteps):
    for steps in range(2, timesteps + 1):
        expected = np.linspace(0, timesteps - 1, steps).round().astype(int)[::-1].tolist()
        assert list(respaced_timesteps(timesteps, steps)) == expected, steps
    assert respaced_timesteps(timesteps, 1) == (timesteps - 1,)


def test_respacing_equals_unclip_scheduler():
    reference = UnCLIPScheduler()
    reference.set_timesteps(25)
    assert [step.t for step in Schedule(ScheduleConfig()).respace(25)] == reference.timesteps.tolist()


@pytest.mark.parametrize(("spacing", "offset"), [("leading", 0), ("leading", 1), ("trailing", 0), ("linspace", 0)])
@pytest.mark.parametrize("count", [1, 7, 50, 999])
def test_spacings_equal_diffusers(spacing, offset, count):
    reference = DDPMScheduler(timestep_spacing=spacing, steps_offset=offset)
    reference.set_timesteps(count)
    expected = [999] if (spacing, count) == ("linspace", 1) else reference.timesteps.tolist()  # theirs is 0 alone
    schedule = Schedule(ScheduleConfig(name="linear", spacing=spacing, first_timestep=offset))
    assert [step.t for step in schedule.respace(count)] == expected


def test_all_timesteps_leave_no_room_for_an_offset():
    schedule = Schedule(ScheduleConfig(spacing="leading", first_timestep=1))
    assert [step.t for step in schedule.respace(1000)] == list(reversed(range(1000)))


@pytest.mark.parametrize("steps", [0, -3, 1001, 2.5, True, float("nan")])
def test_steps_out_of_range_are_refused_with_the_range(steps):
    with pytest.raises(ValueError, match="from 1 to 1000"):
        Schedule(ScheduleConfig()).respace(steps)


@pytest.mark.parametrize("timesteps", [(), (5, 5, 0), (3, 7), (1000, 0), (5, -1)])
def test_timesteps_that_do_not_descend_are_refused(timesteps):
    with pytest.raises(ValueError, match="descend"):
        Schedule(ScheduleConfig()).steps_through(timesteps)


def test_steps_agree_with_the_tables_and_end_clean():
    schedule = Schedule(ScheduleConfig())
    steps = list(schedule.respace(1000))
    for name, table in (("beta", schedule.betas), ("posterior_variance", schedule.posterior_variance)):
        values = torch.tensor([getattr(step, name) for step in reversed(steps)])
        assert torch.allclose(values, table, rtol=1e-5, atol=1e-9), name
    low = torch.tensor([step.min_log_variance for step in reversed(steps)])
    assert torch.allclose(low[1:], schedule.posterior_log_variance[1:], atol=1e-5)
    last = steps[-1]
    assert (last.t, last.t_prev, last.alpha_prev, last.sigma_prev, last.posterior_variance) == (0, -1, 1.0, 0.0, 0.0)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_target_and_conversion_are_inverse(prediction, dtype):
    schedule = Schedule(ScheduleConfig(prediction=prediction))
    x_0, noise = torch.randn(4, 3, 5, 5).to(dtype), torch.randn(4, 3, 5, 5).to(dtype)
    t = torch.tensor([10, 100, 500, 900])
    x_t = schedule.add_noise(x_0, t, noise)
    assert x_t.dtype == torch.float32
    got_x0, got_noise = schedule.to_x0_eps(schedule.target(x_0, noise, t), x_t, t)
    assert torch.allclose(got_x0.float(), x_0.float(), atol=2e-5)
    assert torch.allclose(got_noise.float(), noise.float(), atol=2e-5)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_clamped_x0_brings_a_consistent_eps(prediction):
    schedule = Schedule(ScheduleConfig(prediction=prediction))
    x_t, output, t = torch.randn(2, 3) * 3, torch.randn(2, 3) * 3, torch.tensor([300, 950])
    x_0, eps = schedule.to_x0_eps(output, x_t, t, clamp=1.0)
    assert x_0.abs().max() == 1.0
    alpha, sigma = schedule.sqrt_alphas_cumprod[t][:, None], schedule.sqrt_one_minus_alphas_cumprod[t][:, None]
    assert torch.allclose(alpha * x_0 + sigma * eps, x_t, atol=1e-5)


def test_posterior_is_bayes_rule():
    """q(x_{t-1} | x_t, x_0) from the product of the two Gaussians, in float64."""
    schedule = Schedule(ScheduleConfig(name="linear"))
    t = torch.tensor([1, 400, 999])
    beta, cumprod = schedule.betas[t].double(), schedule.alphas_cumprod[t - 1].double()
    precision = (1 - beta) / beta + 1 / (1 - cumprod)
    x_0, x_t = torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    expected = (torch.sqrt(1 - beta) / beta * x_t + torch.sqrt(cumprod) / (1 - cumprod) * x_0) / precision
    mean, log_variance = schedule.posterior(x_0[:, None], x_t[:, None], t)
    assert torch.allclose(mean[:, 0], expected, atol=2e-4)
    assert torch.allclose(log_variance[:, 0].exp().double(), 1 / precision, rtol=2e-3)


def test_learned_log_variance_spans_posterior_to_beta():
    schedule = Schedule(ScheduleConfig(variance="learned_range"))
    t = torch.tensor([0, 5, 999])
    for value, table in ((-1.0, schedule.posterior_log_variance), (1.0, schedule.log_betas)):
        got = schedule.learned_log_variance(torch.full((3, 3, 2, 2), value), t)
        assert torch.allclose(got[:, 0, 0, 0], table[t], atol=1e-6)
        assert torch.isfinite(got).all()


def test_learned_log_variance_equals_unclip_scheduler():
    schedule = Schedule(ScheduleConfig(variance="learned_range"))
    reference = UnCLIPScheduler(variance_type="learned_range")
    # Its float32 tables lose the digits of 1 - alphas_cumprod at small t; the formula is what is compared.
    reference.alphas_cumprod = torch.cumprod(1 - make_betas("cosine", 1000), 0)
    output = torch.linspace(-1.5, 1.5, 12).reshape(1, 3, 2, 2)
    for step in list(schedule.respace(25))[:-1]:
        expected = reference._get_variance(step.t, prev_timestep=step.t_prev, predicted_variance=output)
        got = interpolate_log_variance(output, step.min_log_variance, step.max_log_variance)
        assert torch.allclose(got, expected.float(), atol=1e-5), step.t


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        Schedule(ScheduleConfig(timesteps=1))
    with pytest.raises(ValueError, match="'sqrt' is unknown"):
        make_betas("sqrt", 10)
    with pytest.raises(ValueError, match="'score' is unknown"):
        to_x0_eps("score", torch.zeros(1), torch.zeros(1), 1.0, 0.0)


def test_to_moves_a_copy():
    schedule = Schedule(ScheduleConfig())
    moved = schedule.to("meta")
    assert moved.betas.device.type == "meta" and schedule.betas.device.type == "cpu"
    assert [step.t for step in moved.respace(3)] == [999, 500, 0]
