"""Image to image and inpainting: what is kept is kept exactly, what is repainted is painted."""

import pytest
import torch

from comfyui_unclip.unclip_core.pictures.fitting import fit_picture
from comfyui_unclip.unclip_core.stages import finish
from comfyui_unclip.unclip_core.types import GivenNoise, PictureStart, RandomNoise, model_to_image


def picture(rows=1, seed=0, height=16, width=16):
    return torch.rand(rows, height, width, 3, generator=torch.Generator().manual_seed(seed))


def half(rows=1, side=16):
    """The left half is repainted."""
    mask = torch.zeros(rows, side, side)
    mask[..., : side // 2] = 1.0
    return mask


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
@pytest.mark.parametrize("learned_variance", [False, True])
def test_outside_the_mask_every_pixel_stays(tiny, sampler, learned_variance):
    decoder, image = tiny.decoder(learned_variance=learned_variance), picture(2)
    result = decoder.sample(tiny.embed(), noise=PictureStart(image, half()), sampler=sampler, steps=5)
    assert (result - image)[:, :, 8:].abs().max() < 1e-6
    assert (result - image)[:, :, :8].abs().mean() > 0.1


def test_the_mask_means_repaint_where_it_is_one(tiny):
    decoder, image = tiny.decoder(), picture()
    everything = decoder.sample(tiny.embed(), noise=PictureStart(image, torch.ones(1, 16, 16)), seed=3)
    freely = decoder.sample(tiny.embed(), seed=3)
    assert torch.allclose(everything, freely, atol=0.02)  # 5e-5 of the image is left in x_T
    with pytest.warns(UserWarning, match="mask is empty"):
        nothing = decoder.sample(tiny.embed(), noise=PictureStart(image, torch.zeros(1, 16, 16)))
    assert torch.allclose(nothing, image, atol=1e-6)


def test_the_network_sees_what_is_kept(tiny):
    """Otherwise the repainted part could not fit to it."""
    decoder = tiny.decoder()
    starts = [PictureStart(picture(seed=seed), half()) for seed in (0, 1)]
    one, two = (decoder.sample(tiny.embed(), noise=start, seed=3, steps=6) for start in starts)
    assert (one - two)[:, :, :8].abs().max() > 1e-2


def test_a_larger_mask_is_cropped_with_its_image(tiny):
    decoder, image = tiny.decoder(), picture(height=32, width=64)
    mask = torch.zeros(1, 64, 128)
    mask[..., :64] = 1.0
    for crop in ("center", "squash"):
        result = decoder.sample(tiny.embed(), noise=PictureStart(image, mask, crop=crop))
        seen = model_to_image(fit_picture("Test", image, (16, 16), crop))
        assert (result - seen)[:, :, 8:].abs().max() < 1e-6 < 0.05 < (result - seen)[:, :, :8].abs().mean()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
def test_less_strength_stays_closer(tiny, sampler):
    decoder, image = tiny.decoder(), picture()
    off = []
    for strength in (0.05, 0.4, 0.9):
        states = []
        start = PictureStart(image, strength=strength)
        steps = decoder.sample_steps(tiny.embed(), noise=start, sampler=sampler, steps=6, seed=2)
        result = finish(steps, states.append)
        assert len(states) == 6 and states[0].t == round(strength * 999)
        off.append((result - image).abs().mean().item())
    assert off[0] < 0.1 and off[0] < off[1] < off[2]


def test_strength_and_mask_go_together(tiny):
    decoder, image = tiny.decoder(), picture()
    result = decoder.sample(tiny.embed(), noise=PictureStart(image, half(), 0.2), steps=4)
    assert (result - image)[:, :, 8:].abs().max() < 1e-6
    free = decoder.sample(tiny.embed(), noise=PictureStart(image, half()), steps=4)
    assert (result - image)[:, :, :8].abs().mean() < (free - image)[:, :, :8].abs().mean()


def test_very_low_strength_has_as_many_steps_as_there_are_levels(tiny):
    states = []
    start = PictureStart(picture(), strength=0.004)
    finish(tiny.decoder().sample_steps(None, noise=start, steps=50), states.append)
    assert [state.t for state in states] == [4, 3, 2, 1, 0]


def test_a_given_noise_is_what_the_image_gets(tiny):
    decoder, image = tiny.decoder(), picture()
    options, states = {"sampler": "ddim", "steps": 3}, []
    start = PictureStart(image, strength=0.5, noise=GivenNoise(torch.zeros(1, 3, 16, 16)))
    finish(decoder.sample_steps(None, noise=start, **options), states.append)
    again = decoder.sample(None, noise=start, seed=9, **options)
    assert torch.allclose(again, ((states[-1].x0.movedim(1, -1) + 1) / 2).clamp(0, 1), atol=1e-6)
    other = decoder.sample(None, noise=PictureStart(image, strength=0.5), **options)
    assert (again - other).abs().max() > 1e-2
    # Random Noise of the run's own seed is what the run draws by itself.
    own = decoder.sample(None, noise=PictureStart(image, strength=0.5, noise=RandomNoise(0)), **options)
    assert torch.equal(own, other)


def test_inpainting_from_an_inverted_noise_keeps_its_timesteps(tiny):
    decoder, image = tiny.decoder(), picture()
    noise = decoder.invert(image, tiny.embed(), steps=6)
    states = []
    start = PictureStart(image, half(), noise=noise)
    result = finish(decoder.sample_steps(tiny.embed(seed=9), noise=start), states.append)
    assert tuple(state.t for state in states) == noise.inversion.timesteps
    assert (result - image)[:, :, 8:].abs().max() < 1e-6


def test_batches_broadcast_and_chunks_change_nothing(tiny, limit_rows):
    decoder, mask = tiny.decoder(), half(3)
    mask[1] = half()[0].T
    options = {"noise": PictureStart(picture(), mask), "sampler": "ddpm", "seed": 4}
    whole = decoder.sample(tiny.embed(3), **options)
    limit_rows(1)
    assert torch.allclose(whole, decoder.sample(tiny.embed(3), **options), atol=2e-5)
    assert len(decoder.sample(tiny.embed(), noise=PictureStart(picture(3), strength=0.5))) == 3


def test_an_image_without_effect_is_told(tiny):
    with pytest.warns(UserWarning, match="at strength 1 without a mask the image has no effect"):
        tiny.decoder().sample(None, noise=PictureStart(picture()))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (PictureStart(picture(), strength=0.0), r"strength must be above 0 \(keep the image\) and at most 1"),
        (PictureStart(picture(), strength=1.1), r"got 1\.1"),
        (PictureStart(picture(), strength=float("nan")), "got nan"),
        (PictureStart(picture()[0], strength=0.5), "Decoder Sample: image must be"),
        (PictureStart(picture(), torch.ones(1, 16, 20)), "the mask is 20 x 16 pixels, the image 16 x 16"),
        (PictureStart(picture(2), half(3)), r"batch sizes do not match \(image 2, mask 3\)"),
        (PictureStart(picture(), strength=0.5, crop="top"), "crop 'top' is unknown"),
        (
            PictureStart(picture(), strength=0.5, noise=GivenNoise(torch.zeros(1, 3, 8, 8))),
            "noise must be 16 x 16 with 3 channels for this decoder",
        ),
        (picture(), "noise must be a start noise, got Tensor; link Random Noise"),
        (
            PictureStart(picture(), half(), noise=PictureStart(picture(seed=1), strength=0.5)),
            "a picture to start from lies over another; link one Start From Picture",
        ),
    ],
)
def test_bad_starts_are_refused_before_any_work(tiny, start, message):
    decoder = tiny.decoder()
    with pytest.raises(ValueError, match=message):
        decoder.sample(None, noise=start)
    assert not decoder.network.loaded
