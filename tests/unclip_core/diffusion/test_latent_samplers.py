"""What latent decoders need of schedules and samplers, against diffusers' schedulers step by step."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UniPCMultistepScheduler

from comfyui_unclip.unclip_core.config import ScheduleConfig
from comfyui_unclip.unclip_core.diffusion.denoiser import Denoiser
from comfyui_unclip.unclip_core.diffusion.samplers import ddim, ddpm, unipc
from comfyui_unclip.unclip_core.diffusion.schedule import Schedule, make_betas

SHAPE = (2, 4, 8, 8)
KANDINSKY = {"beta_start": 0.00085, "beta_end": 0.012}
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}


def network(channels=4):
    weight = torch.randn(channels, 4, generator=torch.Generator().manual_seed(9))

    def call(x_t, step):
        return torch.tanh(torch.einsum("oc,bchw->bohw", weight, x_t) + step.t / 700.0 - 0.5)

    return call


def start():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


def exact(reference, config):
    """diffusers' scheduler with tables worked out in float64: as shipped they have 3 or 4 digits near the ends."""
    reference.betas = make_betas(config.name, 1000, config.beta_start, config.beta_end)
    reference.alphas = 1 - reference.betas
    reference.alphas_cumprod = torch.cumprod(reference.alphas, 0)
    return reference


@pytest.mark.parametrize("name", ["linear", "scaled_linear"])
def test_betas_are_diffusers(name):
    reference = DDPMScheduler(beta_schedule=name, **KANDINSKY)
    assert torch.allclose(make_betas(name, 1000, **KANDINSKY).float(), reference.betas, atol=1e-8)


@pytest.mark.parametrize("steps", [2, 5, 10, 25])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["linear", "scaled_linear"])
def test_unipc_equals_diffusers(name, prediction, steps):
    config = ScheduleConfig(name=name, prediction=prediction, x0_clamp=None, **KANDINSKY)
    run = Schedule(config).respace(steps)
    reference = UniPCMultistepScheduler(
        beta_schedule=name, prediction_type=PREDICTIONS[prediction], lower_order_final=True, final_sigmas_type="zero",
        **KANDINSKY,
    )  # fmt: skip
    reference.set_timesteps(steps)
    # Our timesteps and float64 levels in the place of its own.
    reference.timesteps = torch.tensor([step.t for step in run])
    reference.sigmas = torch.tensor([step.sigma / step.alpha for step in run] + [0.0], dtype=torch.float64)
    model, x = network(), start().double()
    for state in unipc(Denoiser(network_double(model), prediction), start().double(), run):
        expected = reference.step(model_at(model, x, state.t), state.t, x).prev_sample
        assert (state.x_t - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max()), state.t
        x = state.x_t


def model_at(model, x, t):
    class At:
        pass

    At.t = t
    return model(x.float(), At).to(x.dtype)


def network_double(model):
    return lambda x_t, step: model(x_t.float(), step).to(x_t.dtype)


def test_unipc_is_nearer_to_the_exact_path_than_ddim():
    """On a Gaussian, whose exact path is known, at equal numbers of calls; the last steps are of first order anyway."""
    config = ScheduleConfig(name="linear", prediction="eps", x0_clamp=None, **KANDINSKY)
    run, spread = Schedule(config).respace(50), 0.5

    def gaussian(x_t, step):
        return step.sigma * x_t / (step.alpha**2 * spread**2 + step.sigma**2)

    def error(sampler):
        x_T = start().double()
        before = (run[0].alpha * spread) ** 2 + run[0].sigma ** 2
        off = []
        for step, state in zip(run[:-1], sampler(Denoiser(gaussian, "eps"), x_T, run), strict=False):
            if step.t_prev < 150:
                break
            now = (step.alpha_prev * spread) ** 2 + step.sigma_prev**2
            off.append((state.x_t - x_T * (now / before) ** 0.5).abs().max())
        return max(off)

    assert error(unipc) < 0.02 * error(ddim)


@pytest.mark.parametrize("clamp", [1.0, 2.0])
def test_the_dynamic_threshold_is_diffusers(clamp, monkeypatch):
    """Kandinsky's DDPM: eps with a learned range, thresholded at the 99.5 % quantile of each item."""
    config = ScheduleConfig(name="linear", variance="learned_range", x0_clamp=clamp, x0_quantile=0.995, **KANDINSKY)
    run = Schedule(config).respace(12)
    reference = DDPMScheduler(
        beta_schedule="linear", variance_type="learned_range", thresholding=True, sample_max_value=clamp,
        dynamic_thresholding_ratio=0.995, **KANDINSKY,
    )  # fmt: skip
    exact(reference, config).set_timesteps(12)
    reference.timesteps = torch.tensor([step.t for step in run])
    reference.previous_timestep = lambda t: next((s.t_prev for s in run if s.t == int(t)), -1)
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))

    class Same:
        def draw(self, shape):
            return noise

    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: noise)
    model, x = network(8), 3 * start()
    denoise = Denoiser(model, "eps", learned_variance=True, x0_clamp=clamp, x0_quantile=0.995)
    bounded = 0
    for state in ddpm(denoise, x, run, noise=Same()):
        found = reference.step(model_at(model, x, state.t), state.t, x)
        assert (state.x0 - found.pred_original_sample).abs().max() <= 1e-5
        assert (state.x_t - found.prev_sample).abs().max() <= 1e-4 * found.prev_sample.abs().max(), state.t
        bounded += int(state.x0.abs().max() > 0.99)
        x = state.x_t
    assert bounded


def test_v_prediction_on_scaled_linear_is_diffusers():
    config = ScheduleConfig(name="scaled_linear", prediction="v", x0_clamp=None, **KANDINSKY)
    run = Schedule(config).respace(20)
    reference = exact(
        DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False, **KANDINSKY),
        config,
    )
    reference.set_timesteps(20)
    model, x = network(), start()
    for state in ddim(Denoiser(model, "v"), x, run):
        step = next(s for s in run if s.t == state.t)
        reference.num_inference_steps = 1000  # then its previous timestep is t - 1; ours is given below
        reference.final_alpha_cumprod = torch.tensor(1.0)
        levels = reference.alphas_cumprod.clone()
        if step.t_prev >= 0:
            levels[step.t - 1] = levels[step.t_prev]
        reference.alphas_cumprod, saved = levels, reference.alphas_cumprod
        if step.t_prev < 0:
            reference.num_inference_steps = 1  # beyond the first timestep: the final level
        expected = reference.step(model_at(model, x, state.t), state.t, x).prev_sample
        reference.alphas_cumprod = saved
        assert (state.x_t - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max()), state.t
        x = state.x_t
