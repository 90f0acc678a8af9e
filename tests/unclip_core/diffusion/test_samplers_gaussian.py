"""Every sampler on Gaussian data x_0 ~ N(mu, s^2), where the exact denoiser is known: right mean and variance.

With that denoiser each sampler is an affine map of its draws, so the result's mean and variance are computed exactly,
without Monte Carlo: one row of the batch per draw, with that draw 1 and all others 0.
"""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from comfyui_unclip.unclip_core.config import ScheduleConfig
from comfyui_unclip.unclip_core.diffusion.denoiser import Denoiser
from comfyui_unclip.unclip_core.diffusion.noise import ItemNoise
from comfyui_unclip.unclip_core.diffusion.samplers import (
    MULTISTEP,
    SAMPLERS,
    analytic_ddpm,
    analytic_variance,
    ddim,
    ddpm,
    dpmpp_2m,
    unipc,
)
from comfyui_unclip.unclip_core.diffusion.schedule import Schedule, with_noise_powers

MU, S = 0.7, 0.5


def exact_network(prediction, mu=MU, s=S):
    """Outputs E[x_0 | x_t] for x_0 ~ N(mu, s^2), as eps, x0 or v."""

    def network(x, step):
        alpha, sigma = step.alpha, step.sigma
        x_0 = mu + alpha * s**2 / (alpha**2 * s**2 + sigma**2) * (x - alpha * mu)
        eps = (x - alpha * x_0) / sigma
        return {"x0": x_0, "eps": eps, "v": alpha * eps - sigma * x_0}[prediction]

    return network


def exact_denoiser(prediction):
    return Denoiser(exact_network(prediction), prediction)


class BasisNoise:
    """Draw k is 1 in row k and 0 elsewhere."""

    def __init__(self, rows):
        self.rows, self.k = rows, 0

    def draw(self, shape):
        draw = torch.zeros(self.rows, *shape, dtype=torch.float64)
        draw[self.k] = 1.0
        self.k += 1
        return draw


def true_start(steps, draw):
    """x_T of the true marginal at the first timestep, from standard normal draws."""
    first = steps[0]
    return first.alpha * MU + math.sqrt(first.alpha**2 * S**2 + first.sigma**2) * draw


def run(steps):
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def exact_moments(sampler, steps, prediction, eta=0.0, name="cosine", variance="fixed_small"):
    """(mean, standard deviation) of the sampler's result in float64."""
    schedule = Schedule(ScheduleConfig(name=name, prediction=prediction, variance=variance))
    respaced = schedule.respace(steps, ends_early=sampler.__name__ in MULTISTEP)
    noise = BasisNoise(steps + 2)  # x_T, a draw per step, and a last row without any
    x_T = true_start(respaced, noise.draw((1,)))
    result = run(sampler(exact_denoiser(prediction), x_T, respaced, noise=noise, eta=eta)).flatten()
    mean = result[-1].item()
    return mean, (result[:-1] - mean).square().sum().sqrt().item()


CASES = [
    (ddpm, 0.0, "fixed_small", 1000, 0.01),
    (ddpm, 0.0, "fixed_large", 1000, 0.002),
    (ddim, 0.0, "fixed_small", 100, 0.03),
    (ddim, 0.0, "fixed_small", 1000, 0.004),
    (ddim, 0.5, "fixed_small", 1000, 0.005),
    (ddim, 1.0, "fixed_small", 1000, 0.01),
    (dpmpp_2m, 0.0, "fixed_small", 50, 0.06),
    (dpmpp_2m, 0.0, "fixed_small", 200, 0.004),
    (unipc, 0.0, "fixed_small", 50, 0.03),
    (unipc, 0.0, "fixed_small", 200, 0.004),
]


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize(("sampler", "eta", "variance", "steps", "tolerance"), CASES)
def test_mean_and_variance_at_the_end(sampler, eta, variance, steps, tolerance, name, prediction):
    mean, std = exact_moments(sampler, steps, prediction, eta, name, variance)
    assert mean == pytest.approx(MU, abs=1e-6)
    assert std == pytest.approx(S, rel=tolerance)


def test_ddpm_with_few_steps_has_the_variance_the_theory_says():
    """Fixed-small variance of a strided chain, iterated by hand: v_s = A^2 v_t + posterior variance."""
    schedule = Schedule(ScheduleConfig(prediction="x0"))
    v = 1.0
    for step in schedule.respace(10):
        k = step.alpha * S**2 / (step.alpha**2 * S**2 + step.sigma**2)
        gain = (
            step.alpha_prev * step.beta / step.sigma**2 * k + math.sqrt(step.ratio) * step.sigma_prev**2 / step.sigma**2
        )
        v = gain**2 * v + step.posterior_variance
    assert exact_moments(ddpm, 10, "x0")[1] == pytest.approx(math.sqrt(v), rel=1e-9)
    assert math.sqrt(v) < 0.97 * S  # strided fixed-small chains are known to lose variance


def test_ddim_at_eta_one_is_ddpm():
    schedule = Schedule(ScheduleConfig(prediction="eps"))
    x_T = ItemNoise(0, 4, "start").draw((3,)).double()
    results = [
        run(sampler(exact_denoiser("eps"), x_T, schedule.respace(20), noise=ItemNoise(1, 4, "steps"), eta=1.0))
        for sampler in (ddpm, ddim)
    ]
    assert torch.allclose(*results, atol=1e-12)


@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (dpmpp_2m, 2), (unipc, 3)])
def test_the_error_shrinks_as_the_order_says(sampler, order):
    """Against the probability flow's solution, which for Gaussian data is known: x keeps its place in its marginal.

    Over steps of equal growth of the half log-SNR, in which the solvers' orders are stated; a first step of first order
    makes an error of the second order once. UniPC's corrector gains an order on its predictor (Zhao et al. 2023, §3.1).
    """
    errors = []
    for count in (20, 40, 80):
        steps = even_steps(count)
        x = run(sampler(exact_denoiser("x0"), true_start(steps, torch.ones(1, 1).double()), steps)).item()
        true = steps[-1].alpha_prev * MU + math.sqrt(steps[-1].alpha_prev ** 2 * S**2 + steps[-1].sigma_prev ** 2)
        errors.append(abs(x - true))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert min(orders) > order - 0.3, (orders, errors)


def even_steps(count, first=-2.0, last=2.0):
    """Steps from one half log-SNR to another, evenly; only what a deterministic sampler reads is right."""
    levels = [first + (last - first) * k / count for k in range(count + 1)]
    pairs = [(1 / math.sqrt(1 + math.exp(-2 * level)), 1 / math.sqrt(1 + math.exp(2 * level))) for level in levels]
    like = Schedule(ScheduleConfig()).respace(count + 1)
    return tuple(
        replace(step, alpha=a, sigma=s, alpha_prev=a2, sigma_prev=s2)
        for step, ((a, s), (a2, s2)) in zip(like[:-1], itertools.pairwise(pairs), strict=True)
    )


@pytest.mark.parametrize("sampler", [dpmpp_2m, unipc])
def test_with_few_steps_it_is_nearer_than_ddim(sampler):
    """The standard deviation of the result, which is S, over the steps that the stages give each."""
    for name, steps in (("cosine", 8), ("cosine", 20), ("linear", 20)):
        ours, plain = (abs(exact_moments(each, steps, "v", name=name)[1] - S) for each in (sampler, ddim))
        assert ours < 0.5 * plain, (name, steps)
    assert abs(exact_moments(sampler, 10, "v")[1] / S - 1) < 0.06  # 0.3 with a step at t = 0


def test_learned_variance_reaches_the_optimal_one():
    """A network that outputs the log-space share of the true Var(x_s | x_t) gets few-step DDPM exactly right."""
    schedule = Schedule(ScheduleConfig(prediction="eps", variance="learned_range"))
    steps = schedule.respace(12)
    mean = exact_network("eps")

    def network(x, step):
        v_t, v_s = step.alpha**2 * S**2 + step.sigma**2, step.alpha_prev**2 * S**2 + step.sigma_prev**2
        optimal = math.log(v_s - step.ratio * v_s**2 / v_t)
        width = step.max_log_variance - step.min_log_variance
        share = (optimal - step.min_log_variance) / width if width else 0.0
        return torch.cat([mean(x, step), torch.full_like(x, 2 * share - 1)], dim=1)

    noise = BasisNoise(14)
    denoise = Denoiser(network, "eps", learned_variance=True)
    result = run(ddpm(denoise, true_start(steps, noise.draw((1,))), steps, noise=noise)).flatten()
    # The last step has no noise, so what is missing is exactly Var(x_0 | x_t=0).
    first = steps[-1]
    missing = S**2 * first.sigma**2 / (first.alpha**2 * S**2 + first.sigma**2)
    variance = (result[:-1] - result[-1]).square().sum().item()
    assert variance == pytest.approx(
        S**2 - missing, rel=1e-4
    )  # 1e-4: x_T is N(0, 1) rather than the true x_T's marginal


def exact_noise_powers(schedule, mu=0.0, s=S):
    """E eps^2 of the exact denoiser of N(mu, s^2) at every training timestep: B / (a s^2 + B)."""
    a = schedule.alphas_cumprod.double()
    return (1 - a) / (a * s**2 + 1 - a)


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize("count", [4, 12, 50])
def test_analytic_variance_is_the_true_posteriors(name, count):
    schedule = Schedule(ScheduleConfig(name=name, prediction="x0"))
    steps = with_noise_powers(schedule.respace(count), exact_noise_powers(schedule))
    for step in steps[:-1]:
        v_t, v_s = step.alpha**2 * S**2 + step.sigma**2, step.alpha_prev**2 * S**2 + step.sigma_prev**2
        # 1e-5: the schedule's tables, and so the powers, are float32.
        assert analytic_variance(step, step.noise_power) == pytest.approx(v_s - step.ratio * v_s**2 / v_t, rel=1e-5)


def test_analytic_variance_keeps_within_its_bounds():
    step = list(Schedule(ScheduleConfig()).respace(10))[4]
    assert analytic_variance(step, 1.0) == analytic_variance(step, 7.0) == step.posterior_variance
    assert analytic_variance(step, 0.0) == analytic_variance(step, -1.0) > 1.5 * step.posterior_variance


@pytest.mark.parametrize("count", [5, 12])
def test_analytic_ddpm_has_the_right_variance_in_few_steps(count):
    schedule = Schedule(ScheduleConfig(prediction="x0"))
    noise = BasisNoise(count + 2)
    steps = with_noise_powers(schedule.respace(count), exact_noise_powers(schedule))
    result = run(analytic_ddpm(exact_denoiser("x0"), true_start(steps, noise.draw((1,))), steps, noise=noise)).flatten()
    first = steps[-1]  # the last step adds no noise: Var(x_0 | x_t=0) is missing
    missing = S**2 * first.sigma**2 / (first.alpha**2 * S**2 + first.sigma**2)
    assert (result[:-1] - result[-1]).square().sum().item() == pytest.approx(S**2 - missing, rel=1e-4)
    plain = exact_moments(ddpm, count, "x0")[1]
    assert plain < 0.97 * S and exact_moments(analytic_ddpm, count, "x0")[1] == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize(
    "table", [torch.ones(10), torch.ones(1000, 1), torch.full((1000,), float("nan")), torch.full((1000,), -1.0)]
)
def test_tables_that_are_none_are_refused(table):
    with pytest.raises(ValueError, match="at least 1000 timesteps, got shape"):
        with_noise_powers(Schedule(ScheduleConfig()).respace(5), table)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_float32_run_with_real_noise(name):
    """20,000 items in float32 with the noise the stages use."""
    schedule = Schedule(ScheduleConfig(prediction="v"))

    class OneGenerator:
        generator = torch.Generator().manual_seed(5)

        def draw(self, shape):
            return torch.randn(20_000, *shape, generator=self.generator)

    noise = OneGenerator()
    x = run(SAMPLERS[name](exact_denoiser("v"), noise.draw((1,)), schedule.respace(200), noise=noise, eta=0.3))
    assert x.dtype == torch.float32
    assert x.mean().item() == pytest.approx(MU, abs=0.02)
    assert x.std().item() == pytest.approx(S, rel=0.03)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("steps", [1, 2, 25])
def test_a_state_per_step_the_last_one_the_result(name, steps):
    respaced = Schedule(ScheduleConfig(prediction="eps")).respace(steps)
    x_T, seen = ItemNoise(0, 2, "start").draw((3, 4, 4)), []

    def network(x, step):
        seen.append(step)
        return x.to(torch.bfloat16) * 0.5

    generator = SAMPLERS[name](
        Denoiser(network, "eps", x0_clamp=0.8), x_T, respaced, noise=ItemNoise(0, 2, "n"), eta=0.5
    )
    states, result = [], None
    while result is None:
        try:
            states.append(next(generator))
        except StopIteration as stop:
            result = stop.value
    assert tuple(seen) == respaced  # one call of the network per step
    assert [state.index for state in states] == list(range(steps)) and {state.total for state in states} == {steps}
    assert [state.t for state in states] == [step.t for step in respaced]
    assert torch.equal(result, states[-1].x_t) and torch.equal(states[-1].x_t, states[-1].x0)
    assert all(state.x0.abs().max() <= 0.8 and state.x0.dtype == torch.float32 for state in states)


def test_noisy_samplers_need_noise_and_quiet_ones_do_not():
    steps = Schedule(ScheduleConfig(prediction="x0")).respace(3)
    denoise = Denoiser(lambda x, step: x * 0, "x0")
    for sampler, eta in ((ddim, 0.0), (dpmpp_2m, 0.0), (unipc, 0.0)):
        run(sampler(denoise, torch.ones(1, 2), steps, noise=None, eta=eta))
    for sampler, eta in ((ddpm, 0.0), (analytic_ddpm, 0.0), (ddim, 0.1)):
        with pytest.raises(ValueError, match="pass noise=ItemNoise"):
            run(sampler(denoise, torch.ones(1, 2), steps, noise=None, eta=eta))
