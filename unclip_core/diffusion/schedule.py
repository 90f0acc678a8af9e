"""The discrete noise schedule: x_t = sqrt(alphas_cumprod[t]) x_0 + sqrt(1 - alphas_cumprod[t]) noise.

Built in float64 on the CPU and stored as float32 tables (MPS has no float64). Training indexes the tables by a (B,)
int64 t; samplers take `respace(n)`, whose coefficients are plain Python floats, so that no step reads from the device.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checks import is_whole
from ..config import ScheduleConfig

MIN_INVERTIBLE = 1e-4  # alpha-bar at which inversion ends


@dataclass(frozen=True)
class Step:
    """One step of a respaced schedule, from x_t to x_s with s < t. All numbers are floats of float64 accuracy.

    t: training timestep 0..T-1; t_prev: s, or -1 when the step ends at the clean x_0.
    alpha, sigma: sqrt(alphas_cumprod) and sqrt(1 - alphas_cumprod) at t; alpha_prev, sigma_prev: at s (1, 0 for x_0).
    ratio: alphas_cumprod[t] / alphas_cumprod[s]; beta: 1 - ratio, the noise the forward process adds from s to t.
    posterior_variance: of q(x_s | x_t, x_0), 0 at the last step.
    fixed_variance: what ancestral sampling adds when the network learned no variance: the posterior's, or beta.
    min_log_variance, max_log_variance: ends of the learned range; equal to each other's finite value at the last step.
    noise_power: mean square of the predicted noise at t, which `analytic_ddpm` reads; None where it was not measured.
    """

    t: int
    t_prev: int
    alpha: float
    sigma: float
    alpha_prev: float
    sigma_prev: float
    ratio: float
    beta: float
    posterior_variance: float
    fixed_variance: float
    min_log_variance: float
    max_log_variance: float
    noise_power: float | None = None


Steps = tuple[Step, ...]  # from noise to picture


def with_noise_powers(steps: Steps, table: Tensor) -> Steps:
    """These steps with E||predicted noise||^2 / d from a table (T,) over all training timesteps (Bao et al. 2022).

    Raises ValueError for a table that does not reach the first step, or holds a negative or infinite number.
    """
    if table.ndim != 1 or len(table) <= steps[0].t or not (table.isfinite().all() and (table >= 0).all()):
        raise ValueError(
            f"noise powers must be finite, not negative, and one for each of at least {steps[0].t + 1} "
            f"timesteps, got shape {tuple(table.shape)}; fit them again"
        )
    return tuple(replace(step, noise_power=table[step.t].item()) for step in steps)


class Schedule:
    """The tables of a ScheduleConfig: float32, shape (T,), on the CPU (see `to`).

    betas, alphas_cumprod, sqrt_alphas_cumprod, sqrt_one_minus_alphas_cumprod: the forward process;
    posterior_variance, posterior_log_variance: of q(x_{t-1} | x_t, x_0), the log's entry 0 replaced by entry 1 because
    the variance there is 0; posterior_x0_weight, posterior_xt_weight: its mean is their sum over x_0 and x_t;
    log_betas: the upper end of the learned range.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        self.timesteps = config.timesteps
        betas = make_betas(config.name, config.timesteps, config.beta_start, config.beta_end)
        cumprod = torch.cumprod(1.0 - betas, 0)
        previous = torch.cat([torch.ones(1, dtype=torch.float64), cumprod[:-1]])
        posterior = betas * (1.0 - previous) / (1.0 - cumprod)
        self._cumprod64: list[float] = cumprod.tolist()
        self.betas = betas.float()
        self.alphas_cumprod = cumprod.float()
        self.sqrt_alphas_cumprod = cumprod.sqrt().float()
        self.sqrt_one_minus_alphas_cumprod = (1.0 - cumprod).sqrt().float()
        self.posterior_variance = posterior.float()
        self.posterior_log_variance = torch.cat([posterior[1:2], posterior[1:]]).log().float()
        self.log_betas = betas.log().float()
        self.posterior_x0_weight = (betas * previous.sqrt() / (1.0 - cumprod)).float()
        self.posterior_xt_weight = ((1.0 - previous) * (1.0 - betas).sqrt() / (1.0 - cumprod)).float()

    def to(self, device: torch.device | str) -> Schedule:
        """This schedule with its tables on `device`: where a training step's t lives."""
        moved = copy.copy(self)
        for name, table in vars(self).items():
            if isinstance(table, Tensor):
                setattr(moved, name, table.to(device))
        return moved

    # -- training: t is (B,) int64 in 0..T-1, x is (B, ...); results are float32 (float64 for float64 inputs) --

    def add_noise(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t of the forward process."""
        alpha, sigma = self._alpha_sigma(t, x_0)
        return alpha * x_0 + sigma * noise

    def target(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should output: the noise, x_0, or v = alpha noise - sigma x_0."""
        if self.config.prediction == "eps":
            return noise
        if self.config.prediction == "x0":
            return x_0
        alpha, sigma = self._alpha_sigma(t, x_0)
        return alpha * noise - sigma * x_0

    def to_x0_eps(self, output: Tensor, x_t: Tensor, t: Tensor, clamp: float | None = None) -> tuple[Tensor, Tensor]:
        """(x_0, noise) that the network's output (variance channels removed) stands for."""
        alpha, sigma = self._alpha_sigma(t, x_t)
        return to_x0_eps(self.config.prediction, output, x_t, alpha, sigma, clamp)

    def posterior(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, log variance) of q(x_{t-1} | x_t, x_0), which L_vlb compares with; log variance (B, 1, ..., 1)."""
        mean = self.at(self.posterior_x0_weight, t, x_t) * x_0 + self.at(self.posterior_xt_weight, t, x_t) * x_t
        return mean, self.at(self.posterior_log_variance, t, x_t)

    def learned_log_variance(self, output: Tensor, t: Tensor) -> Tensor:
        """Log variance from the network's variance channels, -1..1 between the posterior's and beta's (log space)."""
        low, high = self.at(self.posterior_log_variance, t, output), self.at(self.log_betas, t, output)
        return interpolate_log_variance(output, low, high)

    @staticmethod
    def at(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
        """table[t] shaped (B, 1, ..., 1) to broadcast over `like`."""
        return table.to(t.device)[t].reshape(-1, *[1] * (like.ndim - 1))

    def _alpha_sigma(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        return self.at(self.sqrt_alphas_cumprod, t, like), self.at(self.sqrt_one_minus_alphas_cumprod, t, like)

    # -- sampling --

    def respace(self, steps: int, *, ends_early: bool = False) -> Steps:
        """`steps` steps, spaced as the config says; with "linspace" a single step starts at T-1.

        ends_early: without the step next to the picture (see `respaced_timesteps`), which "trailing" never has. Raises
        ValueError when steps is not an integer in 1..T.
        """
        linspace = respaced_timesteps(self.timesteps, steps, ends_early=ends_early)  # which checks `steps`
        if self.config.spacing == "leading":
            left_out = int(ends_early and steps < self.timesteps)
            stride = self.timesteps // (steps + left_out)
            # All T timesteps leave no room to begin later.
            first = min(self.config.first_timestep, self.timesteps - 1 - stride * (steps + left_out - 1))
            return self.steps_through(tuple(first + stride * (i + left_out) for i in reversed(range(steps))))
        if self.config.spacing == "trailing":
            stride = self.timesteps / steps
            return self.steps_through(tuple(round(self.timesteps - stride * i) - 1 for i in range(steps)))
        return self.steps_through(linspace)

    def steps_through(self, timesteps: tuple[int, ...]) -> Steps:
        """The steps that visit these strictly descending timesteps and end at the clean x_0."""
        follows = (*timesteps[1:], -1)
        if (
            not timesteps
            or timesteps[0] >= self.timesteps
            or any(s >= t for t, s in zip(timesteps, follows, strict=True))
        ):
            raise ValueError(f"timesteps must descend within 0..{self.timesteps - 1}, got {list(timesteps)}")
        pairs = zip(timesteps, follows, strict=True)
        return tuple(self._step(t, s) for t, s in pairs)

    def invertible_timesteps(self, steps: int) -> tuple[int, ...]:
        """`steps` evenly spread timesteps, descending from the largest whose alpha-bar is at least 1e-4.

        Beyond it an error of the predicted noise is multiplied by up to 20,000. Raises ValueError when there are
        not that many.
        """
        usable = sum(level >= MIN_INVERTIBLE for level in self._cumprod64)
        return respaced_timesteps(usable, steps)

    def _step(self, t: int, s: int) -> Step:
        cumprod = self._cumprod64[t]
        previous = self._cumprod64[s] if s >= 0 else 1.0
        ratio = cumprod / previous
        beta = 1.0 - ratio
        variance = beta * (1.0 - previous) / (1.0 - cumprod)
        max_log = math.log(beta)
        return Step(
            t=t,
            t_prev=s,
            alpha=math.sqrt(cumprod),
            sigma=math.sqrt(1.0 - cumprod),
            alpha_prev=math.sqrt(previous),
            sigma_prev=math.sqrt(1.0 - previous),
            ratio=ratio,
            beta=beta,
            posterior_variance=variance,
            fixed_variance=beta if self.config.variance == "fixed_large" else variance,
            min_log_variance=math.log(variance) if variance > 0.0 else max_log,
            max_log_variance=max_log,
        )


def make_betas(name: str, timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """Betas (T,) float64. "cosine": Nichol & Dhariwal 2021 eq. 17, capped at 0.999; "linear": Ho et al. 2020, from
    beta_start to beta_end at T = 1000, scaled so that other T end at the same noise; "scaled_linear": LDM's, linear in
    their square roots."""
    if timesteps < 2:
        raise ValueError(f"ScheduleConfig.timesteps {timesteps} is too small; a schedule needs at least 2")
    scale = 1000.0 / timesteps
    if name == "linear":
        return torch.linspace(beta_start * scale, beta_end * scale, timesteps, dtype=torch.float64).clamp(max=0.999)
    if name == "scaled_linear":
        roots = torch.linspace((beta_start * scale) ** 0.5, (beta_end * scale) ** 0.5, timesteps, dtype=torch.float64)
        return roots.square().clamp(max=0.999)
    if name == "cosine":
        points = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
        level = torch.cos((points + 0.008) / 1.008 * (math.pi / 2)) ** 2
        return (1.0 - level[1:] / level[:-1]).clamp(max=0.999)
    raise ValueError(f"schedule {name!r} is unknown; choose 'cosine', 'linear' or 'scaled_linear'")


def respaced_timesteps(timesteps: int, steps: int, *, ends_early: bool = False) -> tuple[int, ...]:
    """round(linspace(0, timesteps-1, steps)), descending.

    ends_early: of one point more, all but 0, as diffusers spaces its multistep solvers. Those extrapolate in the log of
    the noise level, and from the last but one timestep down to 0 that is as far as all steps before together: with 10
    steps the result would have a third too much contrast, and the step at 0 itself changes next to nothing.
    """
    if not is_whole(steps) or not 1 <= steps <= timesteps:
        raise ValueError(f"steps must be a whole number from 1 to {timesteps}, got {steps!r}")
    if steps == 1:
        return (timesteps - 1,)
    if ends_early and steps < timesteps:
        return respaced_timesteps(timesteps, steps + 1)[:-1]
    stride = (timesteps - 1) / (steps - 1)
    return tuple(round(i * stride) for i in reversed(range(steps)))


def to_x0_eps(
    prediction: str,
    output: Tensor,
    x_t: Tensor,
    alpha: Tensor | float,
    sigma: Tensor | float,
    clamp: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(x_0, eps) that `output` stands for at noise level (alpha, sigma).

    A clamped x_0 brings its own eps, so that x_t = alpha x_0 + sigma eps holds for what is returned.
    """
    if prediction == "x0":
        x_0 = output
    elif prediction == "eps":
        x_0 = (x_t - sigma * output) / alpha
    elif prediction == "v":
        x_0 = alpha * x_t - sigma * output
    else:
        raise ValueError(f"prediction {prediction!r} is unknown; choose 'eps', 'x0' or 'v'")
    if clamp is None and prediction == "eps":
        return x_0, output
    if clamp is None and prediction == "v":
        return x_0, sigma * x_t + alpha * output
    if clamp is not None:
        x_0 = x_0.clamp(-clamp, clamp)
    return x_0, (x_t - alpha * x_0) / sigma


def interpolate_log_variance(output: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Log variance between `low` (output -1) and `high` (output 1): Nichol & Dhariwal 2021 eq. 15."""
    share = (output + 1.0) * 0.5
    return share * high + (1.0 - share) * low
