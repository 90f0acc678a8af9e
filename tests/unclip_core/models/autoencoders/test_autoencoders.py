"""Both autoencoders against diffusers' modules with the same random weights."""

import diffusers
import pytest
import torch

from comfyui_unclip.unclip_core.checkpoints.autoencoder_keys import PART, autoencoder_rule
from comfyui_unclip.unclip_core.config import AutoencoderConfig
from comfyui_unclip.unclip_core.models.autoencoders.kl import KLAutoencoder
from comfyui_unclip.unclip_core.models.autoencoders.movq import MoVQ
from comfyui_unclip.unclip_core.models.kernels import freeze
from comfyui_unclip.unclip_core.runtime.estimates import autoencoder_gradient_bytes, autoencoder_row_bytes

WIDTHS = (32, 64, 64, 96)
DOWN, UP = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
MOVQ = AutoencoderConfig(channels=WIDTHS, codes=64)
KL = AutoencoderConfig("kl", channels=WIDTHS, attention_levels=(), codes=0, latent_scale=0.18215)


def diffusers_movq(channels=WIDTHS, codes=64):
    return diffusers.VQModel(
        latent_channels=4,
        block_out_channels=channels,
        layers_per_block=2,
        num_vq_embeddings=codes,
        vq_embed_dim=4,
        norm_type="spatial",
        down_block_types=(*DOWN[:3], "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", *UP[:3]),
    )


def diffusers_kl(channels=WIDTHS):
    return diffusers.AutoencoderKL(
        latent_channels=4, block_out_channels=channels, layers_per_block=2, down_block_types=DOWN, up_block_types=UP
    )


def with_weights_of(theirs, ours):
    """`ours` with their weights; every tensor of theirs is used once."""
    source, state, used = theirs.state_dict(), {}, []
    for name, target in ours.state_dict().items():
        rule = autoencoder_rule(name)
        assert rule.part == PART
        state[name] = torch.cat([source[key] for key in rule.sources]).view_as(target)
        used += rule.sources
    assert sorted(used) == sorted(source)
    ours.load_state_dict(state)
    return ours.eval()


@pytest.fixture(params=["movq", "kl"])
def pair(request):
    """(diffusers' module, ours) with equal random weights that are not near zero."""
    torch.manual_seed(0)
    theirs = (diffusers_movq if request.param == "movq" else diffusers_kl)().eval()
    for parameter in theirs.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return theirs, with_weights_of(theirs, MoVQ(MOVQ) if request.param == "movq" else KLAutoencoder(KL))


@torch.no_grad()
def test_encoding_is_diffusers(pair):
    theirs, ours = pair
    x = torch.rand(2, 3, 64, 96) * 2 - 1
    movq = isinstance(ours, MoVQ)
    expected = theirs.encode(x).latents if movq else theirs.encode(x).latent_dist.mode() * 0.18215
    latent = ours.encode(x)
    assert latent.shape == (2, 4, 8, 12)
    assert (latent - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_decoding_is_diffusers(pair):
    theirs, ours = pair
    latent = torch.randn(2, 4, 8, 12)
    if isinstance(ours, MoVQ):
        expected = theirs.decode(latent, force_not_quantize=True).sample
    else:
        expected = theirs.decode(latent / 0.18215).sample
    found = ours.decode(latent)
    assert found.shape == (2, 3, 64, 96)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_a_batch_is_its_items(pair):
    _, ours = pair
    latent = torch.randn(3, 4, 4, 4)
    together = ours.decode(latent)
    assert all(torch.allclose(together[i : i + 1], ours.decode(latent[i : i + 1]), atol=1e-5) for i in range(3))


@torch.no_grad()
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("strip", [1, 500, 2000])
def test_strips_make_the_whole(pair, strip, frozen):
    """Their norms' statistics and their attention are the whole picture's; frozen: with weights packed on the way."""
    _, ours = pair
    latent, x = torch.randn(2, 4, 8, 12), torch.rand(2, 3, 64, 96) * 2 - 1
    x[:, :, :32] *= 0.1  # else the strips would be alike
    whole = ours.decode(latent), ours.encode(x)
    if frozen:
        freeze(ours.to(memory_format=torch.channels_last))
    for found, expected in zip((ours.decode(latent, strip), ours.encode(x, strip)), whole, strict=True):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_strips_in_low_precision_stay_as_close_as_the_whole(pair):
    _, ours = pair
    latent = torch.randn(1, 4, 8, 12)
    exact = ours.decode(latent)
    ours.to(torch.bfloat16)
    errors = [(ours.decode(latent, strip) - exact).abs().mean() for strip in (None, 500)]
    assert errors[1] <= 1.5 * errors[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_estimates_are_above_what_an_autoencoder_takes_and_strips_take_less(pair, dtype, peak_bytes):
    _, ours = pair
    ours.to(dtype=dtype, memory_format=torch.channels_last).requires_grad_(False)
    freeze(ours)
    latent, x = torch.randn(1, 4, 24, 32), torch.rand(1, 3, 192, 256) * 2 - 1
    estimate = autoencoder_row_bytes(ours.config, 192, 256, dtype.itemsize)
    with torch.no_grad():
        runs = (lambda: ours.decode(latent), lambda: ours.encode(x), lambda: ours.decode(latent, 2**12))
        whole, encoded, striped = (peak_bytes(run) for run in runs)
    assert max(whole, encoded) <= estimate <= 3 * whole, (whole, encoded, estimate)
    assert striped < 0.75 * whole, (striped, whole)


def test_the_estimate_for_a_gradient_is_above_what_it_takes(pair, peak_bytes):
    _, ours = pair
    ours.requires_grad_(False)
    latent = torch.randn(1, 4, 12, 16, requires_grad=True)
    peak = peak_bytes(lambda: torch.autograd.grad(ours.decode(latent).sum(), latent))
    assert peak <= autoencoder_gradient_bytes(ours.config, 96, 128, 4) <= 3 * peak


def test_movq_has_the_published_size():
    with torch.device("meta"):
        network = MoVQ(AutoencoderConfig())
    assert sum(parameter.numel() for parameter in network.parameters()) == 67_832_495


def test_kl_has_the_size_of_diffusers():
    widths = (128, 256, 512, 512)
    with torch.device("meta"):
        ours = KLAutoencoder(AutoencoderConfig("kl", channels=widths, attention_levels=(), codes=0))
        theirs = diffusers_kl(widths)
    count = [sum(parameter.numel() for parameter in network.parameters()) for network in (ours, theirs)]
    assert count[0] == count[1]
