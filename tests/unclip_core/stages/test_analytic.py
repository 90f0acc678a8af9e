"""Analytic-DPM from fitted table to sample, on a prior whose every distribution is known exactly."""

from dataclasses import replace

import pytest
import torch

from comfyui_unclip.unclip_core.diffusion.schedule import Schedule
from comfyui_unclip.unclip_core.training.fit_analytic import fit_noise_powers
from comfyui_unclip.unclip_core.types import Embedding

VARIANCE = 0.289  # of each dimension


@pytest.fixture
def gaussian(tiny):
    """A prior that is the exact posterior mean of x_0 ~ N(0, VARIANCE), in place of its network's forward."""
    prior = tiny.prior()
    network, alphas = prior.network.read(), Schedule(prior.config.schedule).alphas_cumprod

    def step(x_t, t, cache, *, time=None):
        a = alphas[last_t if t is None else t][..., None]
        return a.sqrt() * VARIANCE / (a * VARIANCE + 1 - a) * x_t

    # While sampling, the stage gives time features in place of t: here they are t itself.
    def from_features(x_t, t, cache, *, time=None):
        return step(x_t, time[:, 0].long() if t is None else t, cache)

    last_t = None
    network.step = from_features
    network.time_features = lambda t: t[:, None].float()
    return prior


def fitted(prior, text, image, **options):
    steps, seen = fit_noise_powers(prior, text, image, **options), []
    try:
        while True:
            seen.append(next(steps))
    except StopIteration as end:
        assert seen[-1] == (1000, 1000)
        return end.value


@pytest.fixture
def table(gaussian, tiny):
    """The fitted table of that prior, over 512 pairs."""
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randn(512, tiny.dim, generator=generator) * VARIANCE**0.5
    vector = x_0 / gaussian.config.embed_scale
    text = tiny.text(512)
    return fitted(gaussian, text, Embedding(vector, tiny.clip_id))


def test_the_fitted_table_is_the_exact_one(gaussian, table):
    a = Schedule(gaussian.config.schedule).alphas_cumprod
    exact = (1 - a) / (a * VARIANCE + 1 - a)
    # Its distance from 1 is what the sampler needs, and is exact to a few percent over ten orders of magnitude.
    left = a * VARIANCE / (a * VARIANCE + 1 - a)
    assert table.dtype == torch.float64 and left[-1] < 1e-8
    assert ((1 - table) / left - 1).abs().max() < 0.1
    assert (table - exact).abs().max() < 0.1


def test_with_it_few_steps_keep_the_true_variance(gaussian, table, tiny):
    prior = replace(gaussian, noise_powers=lambda: table)
    options = {"steps": 4, "guidance_scale": 1.0, "candidates": 1, "count": 2000}
    text = tiny.text(1, norm=10.0)  # so that samples are not normalised
    variances = {}
    for sampler in ("ddpm", "analytic_ddpm"):
        found = prior.sample(text, sampler=sampler, **options).vector * prior.config.embed_scale
        variances[sampler] = found.var().item()
    # The last step goes to the mean of x_0, which leaves out a little of the variance with either.
    assert variances["analytic_ddpm"] == pytest.approx(VARIANCE, rel=0.05)
    assert variances["ddpm"] < 0.9 * variances["analytic_ddpm"]


def test_without_a_table_the_error_names_the_command(tiny):
    prior = tiny.prior()
    with pytest.raises(
        ValueError, match=r"Diffusion Prior: sampler 'analytic_ddpm' needs a fitted table.* choose ddpm"
    ):
        prior.sample(tiny.text(), sampler="analytic_ddpm")

    def missing():
        raise ValueError("model 'm' has no table for the sampler analytic_ddpm; fit one with `unclip fit-analytic`")

    prior = replace(prior, noise_powers=missing)
    with pytest.raises(ValueError, match=r"Diffusion Prior: model 'm' has no table .*`unclip fit-analytic`; or choose"):
        prior.sample(tiny.text(), sampler="analytic_ddpm")
    assert not prior.network.loaded


def test_a_one_pass_prior_has_nothing_to_measure(tiny):
    with pytest.raises(ValueError, match="makes its embedding in one pass, so it has no steps"):
        next(fit_noise_powers(tiny.prior(one_pass=True), tiny.text(2), tiny.embed(2)))


def test_what_are_no_pairs_is_refused(tiny):
    prior = tiny.prior()
    with pytest.raises(ValueError, match=r"fit-analytic: 2 captions .* and 3 embeddings .* are no pairs"):
        next(fit_noise_powers(prior, tiny.text(2), tiny.embed(3)))
    with pytest.raises(ValueError, match="fit-analytic: this model was trained on tiny/test"):
        next(fit_noise_powers(prior, tiny.text(2, clip_id="other"), tiny.embed(2, clip_id="other")))
