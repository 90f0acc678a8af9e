"""The upsampler stage: seeds, sizes, channels, the final network and its place."""

import weakref
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from comfyui_unclip.unclip_core.diffusion.denoiser import level_phases
from comfyui_unclip.unclip_core.diffusion.noise import ItemNoise
from comfyui_unclip.unclip_core.models.upsampler import UpsamplerNetwork
from comfyui_unclip.unclip_core.pictures.resizing import resize_bicubic
from comfyui_unclip.unclip_core.runtime import placement as devices
from comfyui_unclip.unclip_core.runtime.placement import Placed
from comfyui_unclip.unclip_core.stages import Upsampler, finish


def pictures(rows=1, height=8, width=8, channels=3, seed=0):
    return torch.rand(rows, height, width, channels, generator=torch.Generator().manual_seed(seed))


def test_item_equals_a_batch_of_one_in_any_chunking(tiny, limit_rows):
    upsampler, image = tiny.upsampler(), pictures(3)
    limit_rows(3)
    batch = upsampler.sample(image, seed=5)
    assert batch.shape == (3, 32, 32, 3) and batch.dtype == torch.float32
    assert batch.min() >= 0 and batch.max() <= 1 and batch.std() > 0.05
    for i in range(3):
        assert torch.allclose(batch[i : i + 1], upsampler.sample(image[i : i + 1], seed=5 + i), atol=2e-5)
    limit_rows(2)
    assert torch.allclose(batch, upsampler.sample(image, seed=5), atol=2e-5)
    assert (batch[0] - upsampler.sample(image[:1], seed=6)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (20, 12), (5, 7)])
def test_pictures_of_any_size_and_channels(tiny, channels, height, width):
    upsampler, image = tiny.upsampler(), pictures(2, height, width, channels)
    result = upsampler.sample(image, seed=1)
    assert result.shape == (2, 32, 32, 3)
    flat = image
    if channels == 4:
        flat = image[..., :3] * image[..., 3:] + 1 - image[..., 3:]
    elif channels == 1:
        flat = image.expand(-1, -1, -1, 3)
    squashed = upsampler.sample(image, seed=1, crop="squash")
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    middle = flat[:, top : top + short, left : left + short]
    for made, seen in ((result, middle), (squashed, flat)):
        small = resize_bicubic(seen.movedim(-1, 1), 8).clamp(0, 1).movedim(1, -1)
        assert torch.allclose(made, upsampler.sample(small, seed=1), atol=1e-4)
    assert torch.equal(result, squashed) == (height == width)  # a square one is taken exactly as it is


def test_network_sees_the_bicubic_enlargement(tiny):
    upsampler, image, seen = tiny.upsampler(), pictures(2), []
    network = upsampler.network.read()
    original = network.forward
    network.forward = lambda x, t, low, **kwargs: (seen.append(low), original(x, t, low, **kwargs))[1]
    upsampler.sample(image, steps=2)
    expected = F.interpolate(
        image.movedim(-1, 1) * 2 - 1, (32, 32), mode="bicubic", align_corners=False, antialias=True
    )
    assert len(seen) == 2 and all(torch.allclose(low, expected, atol=1e-6) for low in seen)


def test_final_network_makes_the_last_step_only(tiny):
    for steps in (1, 3):
        upsampler, states = tiny.upsampler(final_network=True), []
        finish(upsampler.sample_steps(pictures(), steps=steps), states.append)
        assert [(state.index, state.total) for state in states] == [(index, steps) for index in range(steps)]
        assert upsampler.network.loaded == (steps > 1)  # there is nothing for it to do in a single step
        assert len(upsampler.network.read().calls) == steps - 1 and len(upsampler.final_network.read().calls) == 1
    plain = tiny.upsampler()
    plain.sample(pictures())
    assert plain.final_network is None and len(plain.network.read().calls) == 3


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m", "unipc"])
def test_two_equal_networks_make_the_picture_of_one_in_any_chunking(tiny, limit_rows, sampler):
    """The last step needs nothing of the steps before but where they arrived: no draw, no history."""
    plain, both = tiny.upsampler(), tiny.upsampler(final_network=True)
    both = replace(both, final_network=plain.network)
    whole = plain.sample(pictures(3), seed=5, sampler=sampler, steps=4)
    for rows, chunks in ((3, 1), (2, 2)):
        limit_rows(rows)
        states = []
        split = finish(both.sample_steps(pictures(3), seed=5, sampler=sampler, steps=4), states.append)
        assert torch.allclose(split, whole, atol=2e-5)
        assert [(state.index, state.total) for state in states] == [(i, 4 * chunks) for i in range(4 * chunks)]


def test_on_a_processor_a_large_final_network_takes_the_first_ones_place(tiny, limit_rows, monkeypatch):
    monkeypatch.setattr(devices, "LARGE_BYTES", 0)
    limit_rows(1)
    upsampler, there = tiny.upsampler(final_network=True), []
    networks = (upsampler.network, upsampler.final_network)
    finish(upsampler.sample_steps(pictures(2)), lambda state: there.append([placed.loaded for placed in networks]))
    assert there == [[True, False]] * 4 + [[False, True]] * 2  # both pictures' steps before the change


def test_the_first_networks_weights_are_gone_before_the_final_ones_are_read(tiny, monkeypatch):
    monkeypatch.setattr(devices, "LARGE_BYTES", 0)
    config, first, left = tiny.upsampler(final_network=True).config, [], []

    def build_first(dtype):
        network = tiny.random_weights(UpsamplerNetwork(config))
        first.extend(weakref.ref(parameter) for parameter in network.parameters())
        return network

    def build_final(dtype):
        left.extend(weight for weight in first if weight() is not None)
        return tiny.random_weights(UpsamplerNetwork(config))

    placed = [Placed(build, torch.device("cpu"), torch.float32) for build in (build_first, build_final)]
    Upsampler(config, *placed).sample(pictures())
    assert len(first) > 10 and placed[1].loaded and not left


def test_final_network_uses_its_own_time_features(tiny):
    upsampler = tiny.upsampler(final_network=True)
    states = []
    finish(upsampler.sample_steps(pictures(), steps=1, seed=3), states.append)
    network = upsampler.final_network.read()
    x_T = ItemNoise(3, 1, "upsampler_32").draw((3, 32, 32))
    low = resize_bicubic(pictures().movedim(-1, 1) * 2 - 1, 32)
    with torch.no_grad():
        v = network(x_T, torch.tensor([999]), low)
    x_0 = (x_T * 4.928e-5 - v).clamp(-1, 1)
    level = level_phases(upsampler.config.unet.patch_size)
    assert torch.allclose(states[0].x0, level(x_0, None).clamp(-1, 1), atol=1e-4)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(8, 8, 3), r"Upsample 32: image must be \(B, H, W, C\)"),
        (torch.zeros(1, 8, 8, 2), "1, 3 or 4 channels"),
        (torch.zeros(0, 8, 8, 3), "Upsample 32: image is empty"),
    ],
)
def test_what_is_no_picture_is_refused(tiny, image, message):
    with pytest.raises(ValueError, match=message):
        tiny.upsampler().sample(image)


def test_bad_steps_are_refused(tiny):
    with pytest.raises(ValueError, match="Upsample 32: steps must be a whole number from 1 to 1000, got 0"):
        tiny.upsampler().sample(pictures(), steps=0)


def test_an_unknown_crop_is_refused(tiny):
    with pytest.raises(ValueError, match="Upsample 32: crop 'middle' is unknown; choose one of center, squash"):
        tiny.upsampler().sample(pictures(), crop="middle")
