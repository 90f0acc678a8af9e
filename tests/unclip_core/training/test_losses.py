"""The diffusion losses against closed forms."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from comfyui_unclip.unclip_core.config import ScheduleConfig
from comfyui_unclip.unclip_core.diffusion.schedule import Schedule
from comfyui_unclip.unclip_core.training.losses import (
    diffusion_loss,
    discretised_log_likelihood,
    draw_timesteps,
    gaussian_kl,
    outside,
    range_nearby,
    simple_loss,
    variational_bound,
)

LEARNED = Schedule(ScheduleConfig(prediction="eps", variance="learned_range"))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    x_0 = (torch.rand(4, 3, 8, 8, generator=generator) * 255).round() / 127.5 - 1
    noise = torch.randn(4, 3, 8, 8, generator=generator)
    t = torch.tensor([0, 30, 400, 800])
    return x_0, LEARNED.add_noise(x_0, t, noise), noise, t


def test_kl_is_the_closed_form_of_two_gaussians():
    torch.manual_seed(0)
    mean_1, mean_2 = torch.randn(2, 50)
    log_1, log_2 = torch.randn(2, 50)
    expected = kl_divergence(Normal(mean_1, (log_1 / 2).exp()), Normal(mean_2, (log_2 / 2).exp()))
    torch.testing.assert_close(gaussian_kl(mean_1, log_1, mean_2, log_2), expected)
    assert gaussian_kl(mean_1, log_1, mean_1, log_1).abs().max() < 1e-6


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -1.0), (0.3, -3.0), (-0.97, -2.0), (1.4, -0.5)])
def test_the_likelihoods_of_all_256_values_sum_to_one(mean, log_std):
    values = torch.arange(256) / 127.5 - 1
    likelihood = discretised_log_likelihood(values, torch.tensor(mean), torch.tensor(log_std)).exp()
    assert likelihood.sum().item() == pytest.approx(1.0, abs=1e-4)
    if abs(mean) < 0.9:  # nearer to the ends the outer bins, which reach to infinity, weigh more
        assert values[likelihood.argmax()].item() == pytest.approx(mean, abs=1 / 127)


def test_where_the_variance_is_fixed_only_the_simple_loss_counts(batch):
    x_0, x_t, noise, t = batch
    for prediction, target in (("eps", noise), ("x0", x_0), ("v", None)):
        schedule = Schedule(ScheduleConfig(prediction=prediction))
        target = schedule.target(x_0, noise, t) if target is None else target
        output = target + 0.5
        loss = diffusion_loss(schedule, output, x_0, x_t, noise, t, vlb_weight=9.0)
        torch.testing.assert_close(loss, torch.full((4,), 0.25), atol=1e-5, rtol=0)
        torch.testing.assert_close(loss, simple_loss(schedule, output, x_0, noise, t))
        half = simple_loss(schedule, output.to(torch.bfloat16), x_0, noise, t)
        assert half.dtype == torch.float32


def test_a_perfect_network_has_no_bound_but_the_last_steps_likelihood(batch):
    x_0, x_t, noise, t = batch
    vlb = variational_bound(LEARNED, noise, torch.full_like(noise, -1.0), x_0, x_t, t)
    assert vlb[1:].abs().max() < 1e-3
    assert vlb[0] > 0.1  # discretised likelihood, in bits
    worse = variational_bound(LEARNED, noise, torch.ones_like(noise), x_0, x_t, t)
    assert (worse[1:] >= vlb[1:]).all() and worse[1] > vlb[1] + 1e-6


def test_the_bound_is_in_bits_and_weighs_in_by_the_number_of_steps(batch):
    x_0, x_t, noise, t = batch
    mean_output, variance_output = noise + 0.1, torch.zeros_like(noise)
    output = torch.cat([mean_output, variance_output], dim=1)
    vlb = variational_bound(LEARNED, mean_output, variance_output, x_0, x_t, t)
    total = diffusion_loss(LEARNED, output, x_0, x_t, noise, t, vlb_weight=0.001)
    torch.testing.assert_close(total, simple_loss(LEARNED, mean_output, x_0, noise, t) + 0.001 * 1000 * vlb)
    # One row by hand, at t > 0.
    row = slice(2, 3)
    true_mean, true_log = LEARNED.posterior(x_0[row], x_t[row], t[row])
    guess, _ = LEARNED.to_x0_eps(mean_output[row], x_t[row], t[row])
    mean, _ = LEARNED.posterior(guess, x_t[row], t[row])
    log = LEARNED.learned_log_variance(variance_output[row], t[row])
    true, learned = (Normal(m, (v / 2).exp().expand_as(m)) for m, v in ((true_mean, true_log), (mean, log)))
    assert vlb[2].item() == pytest.approx(kl_divergence(true, learned).mean().item() / math.log(2), rel=1e-3)


def test_the_bound_trains_the_variance_channels_alone(batch):
    x_0, x_t, noise, t = batch
    output = torch.cat([noise, torch.zeros_like(noise)], dim=1).requires_grad_()
    # The mean is right, so the simple loss has no gradient; what remains is the bound's.
    diffusion_loss(LEARNED, output, x_0, x_t, noise, t, vlb_weight=0.001).sum().backward()
    assert output.grad[:, :3].abs().max() == 0
    assert (output.grad[:, 3:].abs().flatten(1).amax(1) > 0).all()
    assert output.grad.isfinite().all()


def test_timesteps_are_drawn_within_range():
    generator = torch.Generator().manual_seed(0)
    uniform = draw_timesteps("uniform", 20_000, 1000, generator)
    middle = draw_timesteps("logit_normal", 20_000, 1000, generator)
    noisy = draw_timesteps("noisy", 20_000, 1000, generator)
    for t in (uniform, middle, noisy):
        assert t.dtype == torch.int64 and t.min() >= 0 and t.max() <= 999
    assert abs(uniform.float().mean() - 499.5) < 8 and abs(uniform.float().std() - 288.7) < 6
    assert abs(middle.float().median() - 1000 / (1 + math.exp(-0.2))) < 15
    assert ((middle > 250) & (middle < 750)).float().mean() > 0.6
    shares = [(t > 850).float().mean().item() for t in (uniform, middle, noisy)]
    assert shares == pytest.approx([0.15, 0.08, 0.44], abs=0.02)
    last = draw_timesteps("last", 20_000, 1000, generator)
    assert 0.74 < (last == 999).float().mean() < 0.77 and 480 < last[last < 999].float().mean() < 520
    with pytest.raises(ValueError, match="timesteps 'cubic' is unknown; choose uniform, logit_normal, noisy or last"):
        draw_timesteps("cubic", 1, 10, generator)


def test_a_halo_is_what_no_true_pixel_near_by_has():
    true = torch.zeros(1, 1, 9, 9)
    true[..., 5:] = 1.0
    made = true.clone()
    made[..., 2, 3], made[..., 2, 6], made[..., 2, 0], made[..., 7, 5] = -0.25, 1.5, 0.5, 0.0
    halo = outside(made, *range_nearby(true, 2))
    assert halo[0, 0, 2].tolist() == [0.5, 0, 0, 0.25, 0, 0, 0.5, 0, 0]  # the 1 is too far from column 0
    assert not halo[0, 0, 7].any()  # a moved edge is none
