"""The denoiser: guidance as one forward, the bound of x_0, and edits that samplers follow to the last bit."""

import pytest
import torch

from comfyui_unclip.unclip_core.config import ScheduleConfig
from comfyui_unclip.unclip_core.diffusion.denoiser import (
    EXPLAINED,
    Denoiser,
    check_guidance_scale,
    keep_known,
    level_phases,
    needs_pair,
)
from comfyui_unclip.unclip_core.diffusion.noise import ItemNoise
from comfyui_unclip.unclip_core.diffusion.samplers import SAMPLERS
from comfyui_unclip.unclip_core.diffusion.schedule import Schedule, interpolate_log_variance

every_prediction = pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
every_sampler = pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
SCHEDULE = Schedule(ScheduleConfig())
STEP = SCHEDULE.respace(7)[3]


class Signed:
    """Outputs x + 1 on the first `rows` rows and x - 1 on the others; with `variance`, 0.5 and -0.5 as its channels."""

    def __init__(self, rows, variance=False):
        self.rows, self.variance, self.calls = rows, variance, []

    def __call__(self, x, step):
        self.calls.append((len(x), step))
        sign = torch.ones(len(x), *[1] * (x.ndim - 1))
        sign[self.rows :] = -1.0
        return torch.cat([x + sign, x * 0 + 0.5 * sign], dim=1) if self.variance else x + sign


def convolution(channels=3):
    """A network of one fixed layer, with its gain chosen so that the bound of x_0 is felt."""
    weight = torch.randn(channels, 3, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.2
    return lambda x, step: torch.nn.functional.conv2d(x, weight, padding=1)


def sample(sampler, denoise, steps, rows=2, eta=0.5):
    """Every state of a run."""
    noise = ItemNoise(0, rows, "x")
    return list(SAMPLERS[sampler](denoise, noise.draw((3, 8, 8)), steps, noise=noise, eta=eta))


def test_at_scale_one_the_network_runs_on_the_conditional_rows_alone():
    network, x = Signed(2), torch.randn(2, 3)
    assert torch.equal(Denoiser(network, "x0")(x, STEP).x0, x + 1.0)
    assert network.calls == [(2, STEP)]
    assert not needs_pair(1.0) and needs_pair(0.0) and needs_pair(3.0)


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 8.0])
def test_guidance_is_one_forward_of_the_pair_and_the_variance_is_the_conditional_half(scale):
    network, x = Signed(2, variance=True), torch.randn(2, 3)
    predicted = Denoiser(network, "x0", learned_variance=True, guidance_scale=scale)(x, STEP)
    assert network.calls == [(4, STEP)]
    assert torch.allclose(predicted.x0, x - 1.0 + scale * 2.0, atol=1e-5)
    expected = interpolate_log_variance(torch.tensor(0.5), STEP.min_log_variance, STEP.max_log_variance)
    assert torch.equal(predicted.log_variance, expected.expand(2, 3))


def test_without_learned_variance_every_channel_is_guided_and_the_variance_is_fixed():
    predicted = Denoiser(Signed(2), "x0", guidance_scale=3.0)(torch.zeros(2, 6), STEP)
    assert torch.equal(predicted.x0, torch.full((2, 6), -1.0 + 3.0 * 2.0)) and predicted.log_variance is None


def test_guidance_is_computed_in_the_samples_precision():
    def network(x, step):
        return torch.tensor([[1.0], [0.99609375]], dtype=torch.bfloat16)

    predicted = Denoiser(network, "x0", guidance_scale=8.0)(torch.zeros(1, 1), STEP)
    assert predicted.x0.item() == pytest.approx(1.02734375, abs=1e-6) and predicted.x0.dtype == torch.float32


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -0.5, "3", None, True])
def test_bad_scales_are_named(scale):
    with pytest.raises(ValueError, match="Decoder Sample: guidance_scale must be a number from 0 up"):
        check_guidance_scale("Decoder Sample", scale)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_learned_variance_needs_its_channels(scale):
    denoise = Denoiser(lambda x, step: x, "eps", learned_variance=True, guidance_scale=scale)
    with pytest.raises(ValueError, match="6 output channels for 3 input channels, got 3"):
        denoise(torch.ones(1, 3, 2, 2), STEP)


@every_prediction
@pytest.mark.parametrize("edited", [False, True])
def test_what_it_returns_explains_x_t_within_the_bound(prediction, edited):
    """x_t = alpha x_0 + sigma eps holds of what the sampler gets, after the bound and after the edits."""
    edits = (lambda x_0, step: x_0 * 5.0 + 0.1,) if edited else ()
    x_t = torch.randn(2, 3, 8, 8) * 3
    for step in SCHEDULE.respace(9)[1:]:
        predicted = Denoiser(convolution(), prediction, x0_clamp=0.8, edits=edits)(x_t, step)
        assert predicted.x0.abs().max() == pytest.approx(0.8, abs=1e-7)
        assert torch.allclose(step.alpha * predicted.x0 + step.sigma * predicted.eps, x_t, atol=1e-5)


@every_prediction
@every_sampler
def test_an_edit_that_changes_nothing_changes_nothing(sampler, prediction):
    steps, seen = SCHEDULE.respace(6), []

    def unchanged(x_0, step):
        seen.append((x_0.abs().max().item(), step))
        return x_0

    plain = sample(sampler, Denoiser(convolution(), prediction, x0_clamp=1.0), steps)
    edited = sample(sampler, Denoiser(convolution(), prediction, x0_clamp=1.0, edits=(unchanged,)), steps)
    for one, two in zip(plain, edited, strict=True):
        assert torch.equal(one.x0, two.x0) and torch.allclose(one.x_t, two.x_t, atol=1e-6)
    assert tuple(step for _, step in seen) == steps
    assert max(top for top, _ in seen) <= 1.0  # an edit is given the bounded x_0


@every_prediction
@every_sampler
@pytest.mark.parametrize("clamp", [1.0, None])
def test_every_step_has_the_edited_x0_to_the_last_bit(sampler, prediction, clamp):
    """Karlo's first step has alpha 5e-5, by which a way through eps would divide."""
    known = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    denoise = Denoiser(convolution(), prediction, x0_clamp=clamp, edits=(lambda x_0, step: known,))
    states = sample(sampler, denoise, SCHEDULE.respace(6))
    assert all(torch.equal(state.x0, known) for state in states)
    assert torch.equal(states[-1].x_t, known)


@pytest.mark.parametrize(("clamp", "quantile", "bound"), [(0.8, None, 0.8), (2.0, 0.995, 1.0), (None, None, None)])
def test_edits_stay_in_the_bound_of_x_0_and_what_is_known_stays_as_it_is(clamp, quantile, bound):
    """A dynamic threshold brings x_0 into -1..1, so that is where guidance may move it; data is no prediction."""
    x_t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    known, mask = torch.full_like(x_t, 1.7), torch.zeros(2, 1, 8, 8)
    mask[..., :4], mask[:, :, 0, 4] = 1.0, 0.5
    step = STEP
    options = {"x0_clamp": clamp, "x0_quantile": quantile}
    pushed = (lambda x_0, step: x_0 + 3.0,)
    plain = Denoiser(convolution(), "v", **options)(x_t, step).x0
    predicted = Denoiser(convolution(), "v", **options, edits=pushed, known=keep_known(known, mask))(x_t, step)
    expected = plain + 3.0 if bound is None else (plain + 3.0).clamp(-bound, bound)
    assert torch.allclose(predicted.x0[..., :4], expected[..., :4], atol=1e-6)
    assert (predicted.x0[:, :, 1:, 4:] == 1.7).all() and (predicted.x0[:, :, 0, 5:] == 1.7).all()
    assert torch.allclose(predicted.x0[:, :, 0, 4], (1.7 + expected[:, :, 0, 4]) / 2, atol=1e-6)
    assert torch.allclose(step.alpha * predicted.x0 + step.sigma * predicted.eps, x_t, atol=1e-5)


def test_edits_are_applied_in_turn():
    x = torch.randn(1, 3, 2, 2)
    edits = (lambda x_0, step: x_0 * 0 + 0.25, lambda x_0, step: x_0 * 2.0)
    assert torch.equal(Denoiser(lambda x, step: x, "x0", edits=edits)(x, STEP).x0, torch.full_like(x, 0.5))


def test_a_learned_variance_is_the_networks_own():
    """Edits change x_0 alone: with x_0 given, another variance is another draw about the same mean."""
    steps = Schedule(ScheduleConfig(variance="learned_range")).respace(4)
    known, network = torch.zeros(2, 3, 8, 8), convolution(6)

    def widest(x, step):
        return torch.cat([network(x, step)[:, :3], torch.ones_like(x)], dim=1)

    def of_another_mean(x, step):
        return torch.cat([x * 0, network(x, step)[:, 3:]], dim=1)

    own, wide, same = (
        sample("ddpm", Denoiser(each, "eps", learned_variance=True, edits=(lambda x_0, step: known,)), steps)
        for each in (network, widest, of_another_mean)
    )
    assert torch.equal(own[0].x_t, same[0].x_t) and not torch.equal(own[0].x_t, wide[0].x_t)


@every_prediction
@every_sampler
def test_the_known_region_ends_as_it_was_given(sampler, prediction):
    known = torch.rand(2, 3, 8, 8) * 2 - 1
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1.0
    denoise = Denoiser(convolution(), prediction, x0_clamp=1.0, edits=(keep_known(known, mask),))
    result = sample(sampler, denoise, SCHEDULE.respace(6))[-1].x_t
    outside = (mask == 0).expand_as(known)
    assert torch.equal(result[outside], known[outside])
    assert (result - known)[~outside].abs().mean() > 0.1


def test_the_known_region_has_each_levels_noise():
    """Its x_s is distributed as q(x_s | x_0): mean alpha x_0, standard deviation sigma."""
    steps = SCHEDULE.respace(8)
    known, mask = torch.full((400, 3, 8, 8), 0.5), torch.zeros(400, 1, 8, 8)
    denoise = Denoiser(convolution(), "eps", x0_clamp=1.0, edits=(keep_known(known, mask),))
    for state, step in zip(sample("ddpm", denoise, steps, rows=400), steps, strict=True):
        assert state.x_t.mean().item() == pytest.approx(0.5 * step.alpha_prev, abs=0.02)
        assert state.x_t.std().item() == pytest.approx(step.sigma_prev, abs=0.02)


@pytest.mark.parametrize("patch_size", [2, 4])
def test_a_lattice_of_a_size_that_noise_makes_is_taken_off_and_a_pattern_is_left(patch_size):
    torch.manual_seed(0)
    down, right = torch.linspace(-0.9, 0.5, 32)[:, None], torch.linspace(0.1, -0.4, 64)
    picture = (down + right).expand(2, 3, 32, 64)  # slow changes alone
    bound = EXPLAINED / ((32 / patch_size - 2) * (64 / patch_size - 2)) ** 0.5

    def with_lattice(size):
        places = torch.rand(2, 3, patch_size, patch_size) - 0.5
        places = places - places.mean((2, 3), keepdim=True)
        places = size * places / places.abs().amax((1, 2, 3), keepdim=True)
        return picture + places.repeat(1, 1, 32 // patch_size, 64 // patch_size)

    level = level_phases(patch_size)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = with_lattice(0.99 * bound).contiguous(memory_format=layout)
        torch.testing.assert_close(level(given, STEP), picture, atol=1e-6, rtol=0)
    pattern = with_lattice(0.8)
    assert (level(pattern, STEP) - pattern).abs().max() <= bound + 1e-6
    two = torch.randn(1, 3, 2 * patch_size, 2 * patch_size)  # all of its patches are at the border
    assert level(two, STEP).isfinite().all()
