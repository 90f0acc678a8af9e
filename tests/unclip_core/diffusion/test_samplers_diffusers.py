"""Step by step against diffusers' schedulers, to 1e-5 in float32, with the same network outputs and the same noise.

Samples are float32. Their tables come as shipped, or worked out in float64: as shipped they hold 1 - beta and
1 - alphas_cumprod as float32 differences, which near both ends of the schedule have only 3 or 4 digits left.
"""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UnCLIPScheduler,
    UniPCMultistepScheduler,
)

from comfyui_unclip.unclip_core.config import SamplingConfig, ScheduleConfig
from comfyui_unclip.unclip_core.diffusion import samplers
from comfyui_unclip.unclip_core.diffusion.denoiser import Denoiser
from comfyui_unclip.unclip_core.diffusion.schedule import Schedule, make_betas
from comfyui_unclip.unclip_core.stages.run import resolve_settings

SHAPE = (2, 3, 8, 8)
NAMES = {"cosine": "squaredcos_cap_v2", "linear": "linear"}
TABLES = {"float64": 1e-5, "shipped": 6e-4}  # tolerance
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}


class Recorded:
    """Noise that can be drawn again, draw by draw."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.draws = []

    def draw(self, shape):
        self.draws.append(torch.randn(SHAPE[0], *shape, generator=self.generator))
        return self.draws[-1]


def network(channels=3):
    """A fixed nonlinear function standing in for a network: bounded, and different at every pixel and time."""
    weight = torch.randn(channels, 3, generator=torch.Generator().manual_seed(9))

    def model(x, step):
        mixed = torch.einsum("oc,bchw->bohw", weight, x.float())
        return torch.tanh(mixed + step.t / 700.0 - 0.5)

    return model


def with_tables(reference, name, tables):
    if tables == "float64":
        reference.betas = make_betas(name, 1000)
        reference.alphas = 1 - reference.betas
        reference.alphas_cumprod = torch.cumprod(reference.alphas, 0)
    return reference


def compare(sampler, reference_step, steps, denoise, *, eta=0.0, noise=None, tolerance=1e-5):
    """Run both from the same x at every step, so that errors are per step; x and x_0 must agree."""
    x_T = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    x = x_T
    for step, state in zip(steps, sampler(denoise, x_T, steps, noise=noise, eta=eta), strict=True):
        drawn = noise.draws[-1] if noise.draws else None
        expected, expected_x0 = reference_step(denoise.network(x, step), state.t, x, drawn)
        scale = max(1.0, expected.abs().max().item())
        assert (state.x_t - expected).abs().max() <= tolerance * scale, state.t
        if expected_x0 is not None:
            assert (state.x0 - expected_x0).abs().max() <= tolerance * max(1.0, expected_x0.abs().max().item()), state.t
        x = state.x_t


@pytest.fixture
def given_noise(monkeypatch):
    """Makes diffusers' step draw what we drew."""

    def patch(module_name, noise):
        monkeypatch.setattr(f"diffusers.schedulers.{module_name}.randn_tensor", lambda *_, **__: noise.draws[-1])

    return patch


@pytest.mark.parametrize("tables", TABLES)
@pytest.mark.parametrize("steps", [7, 25])
@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
@pytest.mark.parametrize("prediction", ["eps", "x0"])
def test_ddpm_equals_unclip_scheduler(steps, variance, prediction, tables, given_noise):
    theirs = {"fixed_small": "fixed_small_log"}.get(variance, variance)
    reference = UnCLIPScheduler(variance_type=theirs, prediction_type=PREDICTIONS[prediction])
    with_tables(reference, "cosine", tables)
    schedule = Schedule(ScheduleConfig(prediction=prediction, variance=variance)).respace(steps)
    noise = Recorded(2)
    given_noise("scheduling_unclip", noise)
    before = {step.t: step.t_prev if step.t_prev >= 0 else None for step in schedule}

    def step(output, t, x, _):
        result = reference.step(output, t, x, prev_timestep=before[t])
        return result.prev_sample, result.pred_original_sample

    learned = variance == "learned_range"
    denoise = Denoiser(network(6 if learned else 3), prediction, learned, x0_clamp=1.0)
    compare(samplers.ddpm, step, schedule, denoise, noise=noise, tolerance=TABLES[tables])


@pytest.mark.parametrize("tables", TABLES)
@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm_equals_ddpm_scheduler(name, prediction, variance, tables, given_noise):
    reference = DDPMScheduler(
        1000,
        beta_schedule=NAMES[name],
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type=PREDICTIONS[prediction],
        variance_type=variance,
    )
    with_tables(reference, name, tables)
    schedule = Schedule(ScheduleConfig(name=name, prediction=prediction, variance=variance)).respace(20)
    reference.set_timesteps(timesteps=[step.t for step in schedule])
    noise = Recorded(3)
    given_noise("scheduling_ddpm", noise)

    def step(output, t, x, _):
        result = reference.step(output, t, x)
        return result.prev_sample, result.pred_original_sample

    denoise = Denoiser(network(), prediction, x0_clamp=1.0)
    compare(samplers.ddpm, step, schedule, denoise, noise=noise, tolerance=TABLES[tables])


@pytest.mark.parametrize("tables", TABLES)
@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_equals_ddim_scheduler(name, prediction, eta, tables):
    reference = DDIMScheduler(
        1000, beta_schedule=NAMES[name], beta_start=1e-4, beta_end=0.02, prediction_type=PREDICTIONS[prediction]
    )
    with_tables(reference, name, tables)
    reference.set_timesteps(20)  # their spacing: theirs finds the previous timestep from it
    schedule = Schedule(ScheduleConfig(name=name, prediction=prediction)).steps_through(
        tuple(reference.timesteps.tolist())
    )
    noise = Recorded(4)

    def step(output, t, x, drawn):
        drawn = torch.zeros_like(x) if drawn is None else drawn
        result = reference.step(output, t, x, eta=eta, use_clipped_model_output=True, variance_noise=drawn)
        if t == 0:  # theirs adds noise of variance 0 at the last step
            assert reference._get_variance(0, -50) == 0
        return result.prev_sample, result.pred_original_sample

    denoise = Denoiser(network(), prediction, x0_clamp=1.0)
    compare(samplers.ddim, step, schedule, denoise, eta=eta, noise=noise, tolerance=TABLES[tables])


SCHEDULERS = {samplers.dpmpp_2m: DPMSolverMultistepScheduler, samplers.unipc: UniPCMultistepScheduler}


@pytest.mark.parametrize("tables", TABLES)
@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize(("prediction", "learned"), [("eps", False), ("eps", True), ("x0", False), ("v", False)])
@pytest.mark.parametrize("steps", [3, 20])
@pytest.mark.parametrize("sampler", list(SCHEDULERS), ids=lambda sampler: sampler.__name__)
def test_multistep_samplers_equal_their_schedulers(sampler, steps, prediction, learned, name, tables):
    """learned: the network has variance channels, which neither reads; only DPM-Solver's scheduler takes them off."""
    takes_off = learned and sampler is samplers.dpmpp_2m
    reference = SCHEDULERS[sampler](
        1000,
        beta_schedule=NAMES[name],
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type=PREDICTIONS[prediction],
        final_sigmas_type="zero",
        **({"variance_type": "learned_range"} if takes_off else {}),
    )
    with_tables(reference, name, tables)
    # Not from T-1: at the cosine schedule's end their float32 sigma of 20,000 has no digits left to compare.
    config = ScheduleConfig(name=name, prediction=prediction, variance="learned_range" if learned else "fixed_small")
    schedule = Schedule(config).steps_through(tuple(round(980 - i * 980 / (steps - 1)) for i in range(steps)))
    set_timesteps(reference, schedule)
    noise = Recorded(5)

    def step(output, t, x, _):
        return reference.step(output if takes_off else output[:, :3], t, x).prev_sample, None

    denoise = Denoiser(network(6 if learned else 3), prediction, learned)
    compare(sampler, step, schedule, denoise, noise=noise, tolerance=TABLES[tables])
    assert not noise.draws


def set_timesteps(reference, schedule):
    """Theirs over our timesteps. UniPC's takes only a number of steps, so its tables are filled in by hand."""
    if not isinstance(reference, UniPCMultistepScheduler):
        reference.set_timesteps(timesteps=[step.t for step in schedule])
        return
    reference.set_timesteps(len(schedule))
    level = reference.alphas_cumprod[[step.t for step in schedule]]
    reference.timesteps = torch.tensor([step.t for step in schedule])
    reference.sigmas = torch.cat([((1 - level) / level).sqrt(), torch.zeros(1)]).to(level.dtype)


@pytest.mark.parametrize("sampler", list(SCHEDULERS), ids=lambda sampler: sampler.__name__)
@pytest.mark.parametrize(("spacing", "first"), [("linspace", 0), ("leading", 0), ("leading", 1), ("trailing", 0)])
@pytest.mark.parametrize("count", [1, 4, 10, 25])
def test_multistep_samplers_are_given_their_schedulers_timesteps(sampler, count, spacing, first):
    config = ScheduleConfig(spacing=spacing, first_timestep=first)
    settings = resolve_settings("Test", config, SamplingConfig(), sampler=sampler.__name__, steps=count)
    reference = SCHEDULERS[sampler](
        1000, beta_schedule="squaredcos_cap_v2", timestep_spacing=spacing, steps_offset=first
    )
    reference.set_timesteps(count)
    assert [step.t for step in settings.steps] == reference.timesteps.tolist()
