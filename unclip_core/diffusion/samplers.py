"""Samplers: plain generator functions with one signature.

    sampler(model, x_T, schedule_steps, *, noise, eta, x0_clamp)

model(x_t, t) -> the network's raw output for x_t (B, C, ...) and t (B,) int64 on x_t's device: eps, x_0 or v as
`schedule_steps` says, with C more channels when its variance is learned; called once per step.
noise: an `ItemNoise`, or anything with `draw(item_shape)`.
eta: DDIM's share of fresh noise (others ignore it). x0_clamp: bound of the predicted x_0, None for no clamping.
Each yields a StepState per step and returns the last x. Arithmetic is in x_T's dtype, on its device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .edits import EditedModel
from .schedule import ScheduleSteps, Step, interpolate_log_variance, to_x0_eps

Model = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class StepState:
    """What a step leaves behind.

    index: 0..total-1; t: the timestep the network saw; x_t: the sample this step arrived at; x0: the predicted x_0.
    """

    index: int
    total: int
    t: int
    x_t: Tensor
    x0: Tensor


Steps = Generator[StepState, None, Tensor]


class NoiseSource(Protocol):
    """Where a sampler's fresh noise comes from."""

    def draw(self, shape: torch.Size) -> Tensor:
        """Standard normal noise (B, *shape)."""


def ddpm(
    model: Model,
    x_T: Tensor,
    schedule_steps: ScheduleSteps,
    *,
    noise: NoiseSource | None = None,
    eta: float = 0.0,
    x0_clamp: float | None = None,
) -> Steps:
    """Ancestral sampling, Ho et al. 2020 algorithm 2; learned variance after Nichol & Dhariwal 2021 eq. 15."""
    x = x_T
    for index, step in enumerate(schedule_steps):
        x0, _, variance_output = predict(model, x, step, schedule_steps, x0_clamp)
        x = posterior_mean(x0, x, step)
        if step.t_prev >= 0:
            x = x + _ddpm_std(step, schedule_steps.variance, variance_output) * _draw(noise, x)
        yield StepState(index, len(schedule_steps), step.t, x, x0)
    return x


def ddim(
    model: Model,
    x_T: Tensor,
    schedule_steps: ScheduleSteps,
    *,
    noise: NoiseSource | None = None,
    eta: float = 0.0,
    x0_clamp: float | None = None,
) -> Steps:
    """Song et al. 2021 eq. 12 and 16: deterministic at eta 0, as noisy as DDPM at eta 1; variance channels dropped."""
    x = x_T
    for index, step in enumerate(schedule_steps):
        x0, eps, _ = predict(model, x, step, schedule_steps, x0_clamp)
        std = eta * math.sqrt(step.posterior_variance)
        x = step.alpha_prev * x0 + math.sqrt(max(step.sigma_prev**2 - std**2, 0.0)) * eps
        if std > 0.0:
            x = x + std * _draw(noise, x)
        yield StepState(index, len(schedule_steps), step.t, x, x0)
    return x


def dpmpp_2m(
    model: Model,
    x_T: Tensor,
    schedule_steps: ScheduleSteps,
    *,
    noise: NoiseSource | None = None,
    eta: float = 0.0,
    x0_clamp: float | None = None,
) -> Steps:
    """DPM-Solver++(2M), Lu et al. 2022 algorithm 2, deterministic; the first and the last step are of first order."""
    x, last_x0, last_h = x_T, None, 0.0
    for index, step in enumerate(schedule_steps):
        x0, _, _ = predict(model, x, step, schedule_steps, x0_clamp)
        if step.t_prev < 0:
            x = x0
        else:
            shrink = step.sigma_prev / step.sigma
            h = math.log(step.alpha_prev / step.alpha) - math.log(shrink)  # growth of the half log-SNR
            slope = x0 if last_x0 is None else x0 + (0.5 * h / last_h) * (x0 - last_x0)
            x = shrink * x - step.alpha_prev * math.expm1(-h) * slope
            last_x0, last_h = x0, h
        yield StepState(index, len(schedule_steps), step.t, x, x0)
    return x


def analytic_ddpm(
    model: Model,
    x_T: Tensor,
    schedule_steps: ScheduleSteps,
    *,
    noise: NoiseSource | None = None,
    eta: float = 0.0,
    x0_clamp: float | None = None,
) -> Steps:
    """Analytic-DPM, Bao et al. 2022 eq. 14: ancestral sampling with the variance that is optimal for the data.

    It needs `schedule_steps.with_noise_powers(table)`; without a table it is `ddpm` with the small variance.
    """
    x = x_T
    powers = schedule_steps.noise_powers or (1.0,) * len(schedule_steps)
    for index, (step, power) in enumerate(zip(schedule_steps, powers, strict=True)):
        x0, _, _ = predict(model, x, step, schedule_steps, x0_clamp)
        x = posterior_mean(x0, x, step)
        if step.t_prev >= 0:
            x = x + math.sqrt(analytic_variance(step, power)) * _draw(noise, x)
        yield StepState(index, len(schedule_steps), step.t, x, x0)
    return x


SAMPLERS: dict[str, Callable[..., Steps]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "analytic_ddpm": analytic_ddpm,
}


def analytic_variance(step: Step, noise_power: float) -> float:
    """Var(x_s | x_t) when the predicted noise has mean square `noise_power`: Bao et al. 2022 eq. 14, clipped to its
    bounds, which are reached at noise_power 1 (the posterior's own variance) and 0."""
    spread = math.sqrt(step.sigma**2 / step.ratio) - math.sqrt(max(step.sigma_prev**2 - step.posterior_variance, 0.0))
    return step.posterior_variance + spread**2 * min(max(1.0 - noise_power, 0.0), 1.0)


def posterior_mean(x0: Tensor, x_t: Tensor, step: Step) -> Tensor:
    """Mean of q(x_s | x_t, x_0), Ho et al. 2020 eq. 7 over a strided step. Exactly x_0 at the last step."""
    if step.t_prev < 0:
        return x0
    variance = step.sigma**2
    return (step.alpha_prev * step.beta / variance) * x0 + (math.sqrt(step.ratio) * step.sigma_prev**2 / variance) * x_t


def predict(
    model: Model, x: Tensor, step: Step, schedule_steps: ScheduleSteps, x0_clamp: float | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(x_0, eps, variance channels or None) at this step; x_0 clamped, then edited, and eps what explains x_t by it."""
    t = torch.full((x.shape[0],), step.t, dtype=torch.int64, device=x.device)
    output, variance_output = model(x, t).to(x.dtype), None
    if schedule_steps.variance == "learned_range":
        if output.shape[1] != 2 * x.shape[1]:
            raise ValueError(
                f"learned variance needs {2 * x.shape[1]} output channels for {x.shape[1]} input channels, "
                f"got {output.shape[1]}"
            )
        output, variance_output = output.chunk(2, dim=1)
    x0, eps = to_x0_eps(schedule_steps.prediction, output, x, step.alpha, step.sigma, x0_clamp)
    if isinstance(model, EditedModel):
        x0 = model.edit(x0, step.sigma)
        eps = (x - step.alpha * x0) / step.sigma
    return x0, eps, variance_output


def _ddpm_std(step: Step, variance: str, variance_output: Tensor | None) -> Tensor | float:
    if variance_output is not None:
        log_variance = interpolate_log_variance(variance_output, step.min_log_variance, step.max_log_variance)
        return (0.5 * log_variance).exp()
    return math.sqrt(step.beta if variance == "fixed_large" else step.posterior_variance)


def _draw(noise: NoiseSource | None, like: Tensor) -> Tensor:
    if noise is None:
        raise ValueError("this sampler adds noise at every step: pass noise=ItemNoise(seed, count, stage)")
    return noise.draw(like.shape[1:]).to(like.device, like.dtype)
