"""Samplers: plain generator functions with one signature.

    sampler(denoise, x_T, steps, *, noise, eta)

denoise(x_t, step) -> Prediction (see `denoiser.py`), called once per step.
steps: `Schedule.respace(n)`, from noise to picture.
noise: an `ItemNoise`, or anything with `draw(item_shape)`; samplers that add no noise ignore it.
eta: DDIM's share of fresh noise, 0..1 (others ignore it).
Each yields a StepState per step and returns the last x. Arithmetic is in x_T's dtype, on its device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .denoiser import Prediction
from .noise import upload
from .schedule import Step, Steps

Denoise = Callable[[Tensor, Step], Prediction]


@dataclass(frozen=True)
class StepState:
    """The state after a step, which progress bars, previews and tests read.

    index: 0..total-1; t: the timestep the network saw; x_t: the sample this step arrived at; x0: the predicted x_0.
    on_trial: this step is tried out and may be discarded, so a NaN in it is no error. preview: makes a picture
    (B, 3, h, w) in about -1..1 of x0 where that is none itself (latents), cheaply.
    """

    index: int
    total: int
    t: int
    x_t: Tensor
    x0: Tensor
    on_trial: bool = False
    preview: Callable[[Tensor], Tensor] | None = None

    @property
    def is_visible(self) -> bool:
        """Whether `picture` can be asked for: of a prior's embeddings there is none."""
        return self.x0 is not None and self.x0.ndim == 4

    def picture(self) -> Tensor:
        """The predicted x_0 to look at, (B, 3, h, w) in about -1..1."""
        return self.x0 if self.preview is None else self.preview(self.x0)


Sampling = Generator[StepState, None, Tensor]


class NoiseSource(Protocol):
    """Where a sampler's fresh noise comes from."""

    def draw(self, shape: torch.Size) -> Tensor:
        """Standard normal noise (B, *shape)."""


def ddpm(
    denoise: Denoise, x_T: Tensor, steps: Steps, *, noise: NoiseSource | None = None, eta: float = 0.0
) -> Sampling:
    """Ancestral sampling, Ho et al. 2020 algorithm 2; learned variance after Nichol & Dhariwal 2021 eq. 15."""
    x = x_T
    for index, step in enumerate(steps):
        predicted = denoise(x, step)
        x = posterior_mean(predicted.x0, x, step)
        if step.t_prev >= 0:
            learned = predicted.log_variance
            std = math.sqrt(step.fixed_variance) if learned is None else (0.5 * learned).exp()
            x = x + std * _draw(noise, x)
        yield StepState(index, len(steps), step.t, x, predicted.x0)
    return x


def ddim(
    denoise: Denoise, x_T: Tensor, steps: Steps, *, noise: NoiseSource | None = None, eta: float = 0.0
) -> Sampling:
    """Song et al. 2021 eq. 12 and 16: deterministic at eta 0, as noisy as DDPM at eta 1; variance channels dropped."""
    x = x_T
    for index, step in enumerate(steps):
        predicted = denoise(x, step)
        std = eta * math.sqrt(step.posterior_variance)
        x = step.alpha_prev * predicted.x0 + math.sqrt(max(step.sigma_prev**2 - std**2, 0.0)) * predicted.eps
        if std > 0.0:
            x = x + std * _draw(noise, x)
        yield StepState(index, len(steps), step.t, x, predicted.x0)
    return x


def dpmpp_2m(
    denoise: Denoise, x_T: Tensor, steps: Steps, *, noise: NoiseSource | None = None, eta: float = 0.0
) -> Sampling:
    """DPM-Solver++(2M), Lu et al. 2022 algorithm 2, deterministic; the first and the last step are of first order."""
    x, last_x0, last_h = x_T, None, 0.0
    for index, step in enumerate(steps):
        x0 = denoise(x, step).x0
        if step.t_prev < 0:
            x = x0
        else:
            shrink = step.sigma_prev / step.sigma
            h = math.log(step.alpha_prev / step.alpha) - math.log(shrink)  # growth of the half log-SNR
            slope = x0 if last_x0 is None else x0 + (0.5 * h / last_h) * (x0 - last_x0)
            x = shrink * x - step.alpha_prev * math.expm1(-h) * slope
            last_x0, last_h = x0, h
        yield StepState(index, len(steps), step.t, x, x0)
    return x


def analytic_ddpm(
    denoise: Denoise, x_T: Tensor, steps: Steps, *, noise: NoiseSource | None = None, eta: float = 0.0
) -> Sampling:
    """Analytic-DPM, Bao et al. 2022 eq. 14: ancestral sampling with the variance that is optimal for the data.

    It needs `with_noise_powers(steps, table)`; without a table it is `ddpm` with the small variance.
    """
    x = x_T
    for index, step in enumerate(steps):
        x0 = denoise(x, step).x0
        x = posterior_mean(x0, x, step)
        if step.t_prev >= 0:
            power = 1.0 if step.noise_power is None else step.noise_power
            x = x + math.sqrt(analytic_variance(step, power)) * _draw(noise, x)
        yield StepState(index, len(steps), step.t, x, x0)
    return x


def unipc(
    denoise: Denoise, x_T: Tensor, steps: Steps, *, noise: NoiseSource | None = None, eta: float = 0.0
) -> Sampling:
    """UniPC, Zhao et al. 2023 algorithms 5 to 8, of second order with B(h) = e^h - 1, deterministic.

    Each x_t is predicted from the steps before, then corrected by what the network says there: no call more than DDIM.
    The first and the last step are of first order.
    """
    x, before = x_T, []  # before: (x, x_0, its step) of the last two steps
    for index, step in enumerate(steps):
        x0 = denoise(x, step).x0
        if before:
            x = _unipc_step(before, step.alpha, step.sigma, x0)
            # The network is not asked again at the corrected x: x_0 stays that of the predicted one.
        before = [*before[-1:], (x, x0, step)]
        x = x0 if step.t_prev < 0 else _unipc_step(before, step.alpha_prev, step.sigma_prev, None)
        yield StepState(index, len(steps), step.t, x, x0)
    return x


def _unipc_step(before: list[tuple[Tensor, Tensor, Step]], alpha: float, sigma: float, x0: Tensor | None) -> Tensor:
    """x at noise level (alpha, sigma) from the one or two steps before it, of as high an order. x0: None predicts x;
    the x_0 that the network gave there corrects it."""
    x, last_x0, last = before[-1]
    h = math.log(alpha / last.alpha) - math.log(sigma / last.sigma)  # growth of the half log-SNR
    grown = math.expm1(-h)
    slopes, places = [], []
    if len(before) == 2:
        _, older_x0, older = before[0]
        place = (math.log(older.alpha / last.alpha) - math.log(older.sigma / last.sigma)) / h
        slopes.append((older_x0 - last_x0) / place)
        places.append(place)
    if x0 is not None:
        slopes.append(x0 - last_x0)
        places.append(1.0)
    x = (sigma / last.sigma) * x - alpha * grown * last_x0
    for weight, slope in zip(_unipc_weights(places, h), slopes, strict=True):
        x = x - alpha * grown * weight * slope
    return x


def _unipc_weights(places: list[float], h: float) -> list[float]:
    """Weights of the slopes towards one or two other points, at `places` in units of h (Zhao et al. 2023, eq. 8)."""
    if len(places) < 2:
        return [0.5] * len(places)  # exact to the order that counts, as the authors take it
    grown = math.expm1(-h)
    first = grown / -h - 1.0
    second = first / -h - 0.5
    b = first / grown, 2.0 * second / grown
    (p, q) = places
    return [(b[0] * q - b[1]) / (q - p), (b[1] - b[0] * p) / (q - p)]


SAMPLERS: dict[str, Callable[..., Sampling]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "unipc": unipc,
    "analytic_ddpm": analytic_ddpm,
}
MULTISTEP = frozenset({"dpmpp_2m", "unipc"})  # over steps that end early, see `respaced_timesteps`


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


def _draw(noise: NoiseSource | None, like: Tensor) -> Tensor:
    if noise is None:
        raise ValueError("this sampler adds noise at every step: pass noise=ItemNoise(seed, count, stage)")
    return upload(noise.draw(like.shape[1:]), like)
