"""Layers and UNet against plain formulas, and their layout and sizes."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from comfyui_unclip.unclip_core.config import ScheduleConfig, UNetConfig, UpsamplerConfig
from comfyui_unclip.unclip_core.models.decoder import DecoderNetwork
from comfyui_unclip.unclip_core.models.layers import GroupNorm, ResBlock, SpatialAttention, attend, time_features
from comfyui_unclip.unclip_core.models.unet import UNet
from comfyui_unclip.unclip_core.models.upsampler import UpsamplerNetwork, stored_upsampler
from comfyui_unclip.unclip_core.presets import STORYBOOK

TINY = UNetConfig(16, 3, 3, 16, (1, 2), 1, (8,), 8, 0, norm_groups=8)


def test_time_features_are_cosines_then_sines():
    features = time_features(torch.tensor([0, 7]), 6)
    assert features[0].tolist() == [1, 1, 1, 0, 0, 0]
    angles = [7 * 10000 ** (-i / 3) for i in range(3)]
    expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
    assert features[1].tolist() == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="even, got 5"):
        time_features(torch.tensor([0]), 5)


def test_spatial_attention_is_softmax_over_tokens_and_pixels(randomise):
    layer = randomise(SpatialAttention(16, 8, 12, 4, 1e-5))
    x, tokens = torch.randn(2, 16, 4, 4), torch.randn(2, 5, 12)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    full = F.pad(mask, (0, 16), value=True)
    out = layer(x, layer.project_context(tokens), full[:, None, None, :])

    pixels = F.group_norm(x, 4, layer.norm.weight, layer.norm.bias).flatten(2).transpose(1, 2)  # (2, 16, 16)
    q, k, v = layer.qkv(pixels).chunk(3, dim=-1)
    token_k, token_v = layer.context_kv(tokens).chunk(2, dim=-1)
    k, v = torch.cat([token_k, k], 1), torch.cat([token_v, v], 1)
    heads = []
    for part in (slice(0, 8), slice(8, 16)):
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(8)
        scores = scores.masked_fill(~full[:, None, :], -torch.inf)
        heads.append(scores.softmax(-1) @ v[..., part])
    expected = x + layer.proj(torch.cat(heads, -1)).transpose(1, 2).view_as(x)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize(("resample", "side"), [("none", 8), ("down", 4), ("up", 16)])
def test_residual_block_formula(scale_shift, resample, side, randomise):
    block = randomise(ResBlock(8, 16, 12, scale_shift=scale_shift, groups=4, eps=1e-5, resample=resample))
    x, time = torch.randn(2, 8, 8, 8), torch.randn(2, 12)

    def norm(h, layer):
        return F.group_norm(h, 4, layer.weight, layer.bias, 1e-5)

    def resized(h):
        if resample == "down":
            return h.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5))
        return h.repeat_interleave(2, 2).repeat_interleave(2, 3) if resample == "up" else h

    h = block.conv_1(resized(F.silu(norm(x, block.norm_1))))
    shift = block.time(time)[:, :, None, None]
    scale, shift = shift.chunk(2, dim=1) if scale_shift else (torch.zeros(1), shift)
    h = norm(h, block.norm_2) * (1 + scale) + shift if scale_shift else norm(h + shift, block.norm_2)
    expected = block.skip(resized(x)) + block.conv_2(F.silu(h))
    out = block(x, time)
    assert out.shape == (2, 16, side, side)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_every_map_stays_channels_last(randomise):
    """A single stray layout costs a copy of the map at every step."""
    decoder = randomise(DecoderNetwork(replace(STORYBOOK.decoder, clip_dim=8, text_width=8)))
    decoder.to(memory_format=torch.channels_last)
    strays = []

    def check(module, _, out):
        if isinstance(out, torch.Tensor) and out.ndim == 4 and not out.is_contiguous(memory_format=torch.channels_last):
            strays.append((type(module).__name__, tuple(out.shape)))

    for module in decoder.unet.modules():
        if module is not decoder.unet:
            module.register_forward_hook(check)
    with torch.no_grad():
        conditioning = decoder.condition(torch.randn(1, 8))
        decoder(torch.randn(1, 3, 64, 64), torch.tensor([5]), conditioning)
    assert strays == []


def test_attention_only_where_configured():
    unet = UNet(replace(TINY, channel_mult=(1, 2, 2), attention_resolutions=(8,)))
    assert [len(level.attentions) for level in unet.down] == [0, 1, 0]
    assert [len(level.attentions) for level in unet.up] == [0, 2, 0]
    assert len(unet.mid.attentions) == 1
    bare = UNet(replace(TINY, attention_resolutions=()))
    assert not any(isinstance(module, SpatialAttention) for module in bare.modules())
    patched = UNet(replace(TINY, patch_size=2, attention_resolutions=(8,)))  # 16 px are 8 patches
    assert [len(level.attentions) for level in patched.down] == [1, 0]


def test_other_sizes_than_trained(randomise):
    """Upsamplers train on crops and run at full size."""
    unet = randomise(UNet(replace(TINY, attention_resolutions=(), patch_size=2)))
    out = unet(torch.randn(1, 3, 24, 40), unet.time_features(torch.tensor([3])))
    assert out.shape == (1, 3, 24, 40)


def test_upsampler_pair_and_level(randomise):
    config = UpsamplerConfig(
        final_network=True,
        augmentation_level=True,
        sampling_level=0.25,
        unet=replace(TINY, in_channels=6, attention_resolutions=()),
    )
    pair = randomise(stored_upsampler(config))
    upsampler = pair.first
    x, low, t = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16), torch.tensor([3, 900])
    default = upsampler(x, t, low)
    torch.testing.assert_close(default, pair(x, t, low))
    torch.testing.assert_close(default, upsampler(x, t, low, torch.full((2,), 0.25)))
    assert not torch.allclose(default, upsampler(x, t, low, torch.ones(2)), atol=1e-3)
    assert not torch.allclose(default, pair.final(x, t, low), atol=1e-3)
    table = upsampler.time_features(t)
    torch.testing.assert_close(default, upsampler(x, t * 0, low, time=table))
    assert isinstance(stored_upsampler(replace(config, final_network=False)), UpsamplerNetwork)


def test_a_fresh_residual_upsampler_answers_with_the_enlarged_picture(randomise):
    """Its output layer starts at zero, so training starts from bicubic enlargement."""
    unet = replace(TINY, in_channels=6, attention_resolutions=())
    config = UpsamplerConfig(unet=unet, residual=True, schedule=ScheduleConfig(prediction="x0"))
    x, low, t = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16), torch.tensor([3, 900])
    torch.testing.assert_close(UpsamplerNetwork(config)(x, t, low), low)
    upsampler = randomise(UpsamplerNetwork(config))
    plain = UpsamplerNetwork(replace(config, residual=False))
    plain.load_state_dict(upsampler.state_dict())
    torch.testing.assert_close(upsampler(x, t, low), plain(x, t, low) + low)
    with pytest.raises(ValueError, match=r"needs prediction 'x0'.*got 'eps'"):
        UpsamplerConfig(unet=unet, residual=True)


def test_upsampler_errors():
    upsampler = UpsamplerNetwork(UpsamplerConfig(unet=replace(TINY, in_channels=6, attention_resolutions=())))
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([3])
    with pytest.raises(ValueError, match=r"low has shape \(1, 3, 8, 8\), but x_t \(1, 3, 16, 16\); enlarge it first"):
        upsampler(x, t, torch.randn(1, 3, 8, 8))


def test_half_precision_survives_large_activations():
    """Squares of 3e4 overflow float16: statistics, softmax and time features must not be computed in it."""
    torch.manual_seed(0)
    x = torch.randn(2, 16, 6, 6) * 1e4 + 2e4
    norm, layer_norm = GroupNorm(4, 16, 1e-5), torch.nn.LayerNorm(16)
    tokens = x.flatten(2).transpose(1, 2)
    q = torch.randn(2, 4, 9, 16) * 250  # scores up to 1e6
    with torch.no_grad():
        for exact, half in (
            (norm(x), GroupNorm(4, 16, 1e-5).to(torch.float16)(x.to(torch.float16))),
            (layer_norm(tokens), torch.nn.LayerNorm(16).to(torch.float16)(tokens.to(torch.float16))),
            (attend(q, q, q), attend(q.to(torch.float16), q.to(torch.float16), q.to(torch.float16))),
        ):
            assert half.dtype == torch.float16 and torch.isfinite(half).all()
            assert (half.float() - exact).abs().max() < 0.01 * exact.abs().max()
    features = time_features(torch.tensor([999]), 64)
    assert features.dtype == torch.float32 and torch.equal(features, time_features(torch.tensor([999.0]), 64))
