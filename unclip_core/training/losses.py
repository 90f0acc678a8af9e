"""The diffusion losses: L_simple on what the network predicts, and 0.001 L_vlb where it also learns the variance; and
what a halo is, for upsamplers whose recipe weighs it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion.schedule import Schedule

LAST_SHARE = 0.75  # of the timesteps "last"


def draw_timesteps(how: str, count: int, timesteps: int, generator: torch.Generator) -> Tensor:
    """(count,) int64 in 0..timesteps-1.

    "logit_normal": sigmoid of N(0.2, 1.1), a little toward noise. "noisy": half of them so, half sigmoid of N(2.6, 1):
    which of two things has which colour is settled at t > 0.85, where the first has 8 % of its draws, this 44 %.
    "last": noise alone in three of four, all that a network sampled in one step is asked for; the rest uniform, so that
    more steps still work.
    """
    if how == "uniform":
        return torch.randint(timesteps, (count,), generator=generator)
    if how == "logit_normal":
        share = torch.sigmoid(0.2 + 1.1 * torch.randn(count, generator=generator))
        return (share * timesteps).long().clamp(max=timesteps - 1)
    if how == "noisy":
        normal, late = torch.randn(count, generator=generator), torch.rand(count, generator=generator) < 0.5
        share = torch.sigmoid(torch.where(late, 2.6 + normal, 0.2 + 1.1 * normal))
        return (share * timesteps).long().clamp(max=timesteps - 1)
    if how == "last":
        drawn = torch.randint(timesteps, (count,), generator=generator)
        return drawn.masked_fill(torch.rand(count, generator=generator) < LAST_SHARE, timesteps - 1)
    raise ValueError(f"Recipe.timesteps {how!r} is unknown; choose uniform, logit_normal, noisy or last")


def simple_loss(schedule: Schedule, output: Tensor, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Mean squared error per row (B,) between `output` (no variance channels) and the schedule's target, float32."""
    return (output.float() - schedule.target(x_0, noise, t)).square().flatten(1).mean(1)


def diffusion_loss(
    schedule: Schedule, output: Tensor, x_0: Tensor, x_t: Tensor, noise: Tensor, t: Tensor, vlb_weight: float | Tensor
) -> Tensor:
    """L_simple, plus vlb_weight (a number, or (B,)) * T * L_vlb where the variance is learned. (B,), float32.

    The variational term trains the variance channels alone: the mean is detached (Nichol & Dhariwal 2021 §3.1).
    """
    if schedule.config.variance != "learned_range":
        return simple_loss(schedule, output, x_0, noise, t)
    mean_output, variance_output = output.float().chunk(2, dim=1)
    vlb = variational_bound(schedule, mean_output.detach(), variance_output, x_0, x_t, t)
    return simple_loss(schedule, mean_output, x_0, noise, t) + vlb_weight * schedule.timesteps * vlb


def outside(made: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """How far each value lies outside of its bounds, 0 inside; all of one shape. Outside of what the true picture has
    near by (`range_nearby`) it is a halo."""
    return (made - high).clamp(min=0) + (low - made).clamp(min=0)


def range_nearby(pictures: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """The least and the greatest value within `radius` pixels of each of (B, C, H, W), in a square."""

    def greatest(x: Tensor) -> Tensor:
        side = 2 * radius + 1  # along one axis, then along the other
        return F.max_pool2d(F.max_pool2d(x, (side, 1), 1, (radius, 0)), (1, side), 1, (0, radius))

    return -greatest(-pictures), greatest(pictures)


def variational_bound(
    schedule: Schedule, mean_output: Tensor, variance_output: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor
) -> Tensor:
    """One term of the bound per row (B,), in bits per dimension: KL at t > 0, the discretised likelihood at t = 0.

    Of the network's x_0 as it is: a bound of it, which samplers have, would hide how far off the mean may be.
    """
    true_mean, true_log_variance = schedule.posterior(x_0, x_t, t)
    predicted_x0, _ = schedule.to_x0_eps(mean_output, x_t, t)
    mean, _ = schedule.posterior(predicted_x0, x_t, t)
    log_variance = schedule.learned_log_variance(variance_output, t)
    kl = gaussian_kl(true_mean, true_log_variance, mean, log_variance).flatten(1).mean(1)
    nll = -discretised_log_likelihood(x_0, mean, 0.5 * log_variance).flatten(1).mean(1)
    return torch.where(t == 0, nll, kl) / math.log(2.0)


def gaussian_kl(mean_1: Tensor, log_variance_1: Tensor, mean_2: Tensor, log_variance_2: Tensor) -> Tensor:
    """KL divergence of N(mean_1, .) from N(mean_2, .) per element, in nats."""
    return 0.5 * (
        log_variance_2
        - log_variance_1
        - 1.0
        + torch.exp(log_variance_1 - log_variance_2)
        + (mean_1 - mean_2).square() * torch.exp(-log_variance_2)
    )


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log probability of the 8-bit value x in -1..1 stands for, under a Gaussian; the outer bins reach to infinity."""
    normal = torch.distributions.Normal(0.0, 1.0)
    inverse_std = torch.exp(-log_std)
    above = normal.cdf((x - mean + 1.0 / 255.0) * inverse_std)
    below = normal.cdf((x - mean - 1.0 / 255.0) * inverse_std)
    above = torch.where(x > 0.999, torch.ones_like(above), above)
    below = torch.where(x < -0.999, torch.zeros_like(below), below)
    return (above - below).clamp(min=1e-12).log()
