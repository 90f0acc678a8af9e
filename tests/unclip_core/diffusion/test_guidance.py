"""Classifier-free guidance: forwards counted, arithmetic checked, variance channels left alone."""

import pytest
import torch

from comfyui_unclip.unclip_core.diffusion.guidance import check_guidance_scale, guide, needs_pair


class Counting:
    """Adds +1 to conditional rows and -1 to unconditional ones; half the channels are 'variance'."""

    def __init__(self, rows):
        self.rows, self.calls = rows, []

    def __call__(self, x, t):
        self.calls.append((len(x), t.tolist()))
        sign = torch.ones(len(x), 1)
        sign[self.rows :] = -1.0
        return torch.cat([x + sign, x * 0 + 5 * sign], dim=1)


def test_scale_one_is_a_single_plain_forward():
    model = Counting(2)
    assert guide(model, 1.0) is model
    assert not needs_pair(1.0) and needs_pair(0.0) and needs_pair(3.0)


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 8.0])
def test_pair_is_one_forward_and_variance_is_the_conditional_half(scale):
    model, x, t = Counting(2), torch.randn(2, 3), torch.tensor([7, 7])
    output = guide(model, scale, learned_variance=True)(x, t)
    assert model.calls == [(4, [7, 7, 7, 7])]
    assert torch.allclose(output[:, :3], x - 1.0 + scale * 2.0, atol=1e-5)
    assert torch.equal(output[:, 3:], torch.full((2, 3), 5.0))


def test_without_learned_variance_every_channel_is_guided():
    output = guide(Counting(2), 3.0)(torch.zeros(2, 3), torch.tensor([7, 7]))
    assert torch.allclose(output[:, 3:], torch.full((2, 3), -5.0 + 3 * 10.0))


def test_guidance_is_computed_in_the_samples_precision():
    def model(x, t):
        return torch.cat([torch.full((1, 1), 1.0), torch.full((1, 1), 0.99609375)]).to(torch.bfloat16)

    assert guide(model, 8.0)(torch.zeros(1, 1), torch.tensor([0])).item() == pytest.approx(1.02734375, abs=1e-6)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -0.5, "3", None, True])
def test_bad_scales_are_named(scale):
    with pytest.raises(ValueError, match="Decoder Sample: guidance_scale must be a number from 0 up"):
        check_guidance_scale("Decoder Sample", scale)
