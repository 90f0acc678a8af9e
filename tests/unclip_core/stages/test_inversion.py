"""DDIM inversion through the decoder stage: there and back, what the Noise records, and what decoding it refuses."""

from dataclasses import replace

import pytest
import torch

from comfyui_unclip.unclip_core.diffusion.schedule import Schedule
from comfyui_unclip.unclip_core.runtime.placement import Placed
from comfyui_unclip.unclip_core.stages import Decoder, finish
from comfyui_unclip.unclip_core.types import PictureStart


def picture(rows=1, seed=0, side=16):
    return torch.rand(rows, side, side, 3, generator=torch.Generator().manual_seed(seed))


def distance(one, two):
    return (one - two).square().mean().sqrt().item()


@pytest.mark.parametrize("learned_variance", [False, True])
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_there_and_back(tiny, learned_variance, guidance_scale):
    decoder, embed, image = tiny.decoder(learned_variance=learned_variance), tiny.embed(2), picture(2)
    image[1] = 1.0  # pure white
    errors = []
    for refine in (0, 8):
        noise = decoder.invert(image, embed, steps=12, guidance_scale=guidance_scale, refine=refine)
        assert noise.x_T.shape == (2, 3, 16, 16) and noise.x_T.dtype == torch.float32
        errors.append(distance(decoder.sample(embed, noise=noise), image))
    assert errors[1] < 0.01 and errors[1] <= errors[0]


def test_what_was_inverted_keeps_the_pattern_that_sampling_would_take_for_noise(tiny):
    decoder, image = tiny.decoder(patch_size=2), picture() * 0.5
    image[:, ::2, ::2] += 0.3
    noise = decoder.invert(image, tiny.embed(), steps=12, guidance_scale=1.0, refine=8)
    assert distance(decoder.sample(tiny.embed(), noise=noise), image) < 0.01


def test_black_and_white_are_finite_and_never_clamped(tiny):
    image = torch.stack([torch.zeros(16, 16, 3), torch.ones(16, 16, 3)])
    states = []
    noise = finish(tiny.decoder().invert_steps(image, steps=10, refine=0), states.append)
    assert torch.isfinite(noise.x_T).all() and len(states) == 10
    assert max(state.x0.abs().max() for state in states) > 1.0


def test_the_noise_records_its_conditions(tiny):
    decoder, embed, text = tiny.decoder(), tiny.embed(), tiny.text()
    inversion = decoder.invert(picture(), embed, text, steps=6, guidance_scale=1.5).inversion
    schedule = Schedule(decoder.config.schedule)
    assert inversion.timesteps == schedule.invertible_timesteps(6) and inversion.timesteps[0] < 999
    assert inversion.decoder_id == decoder.config.decoder_id and inversion.guidance_scale == 1.5
    assert 0 <= inversion.residual < 1
    other = decoder.invert(picture(), tiny.embed(seed=9), steps=6).inversion
    assert other.embed_hash != inversion.embed_hash and inversion.text_hash and other.text_hash == ""
    assert decoder.invert(picture(), steps=6).inversion.embed_hash == ""
    assert len(decoder.invert(picture()).inversion.timesteps) == decoder.config.sampling.steps


def test_decoding_follows_the_inversion_without_being_told(tiny):
    """The stack's own sampler is dpmpp_2m at guidance 2 and 4 steps, clamped: none of that would lead back."""
    decoder = tiny.decoder()
    noise = decoder.invert(picture(), tiny.embed(), steps=7)
    states = []
    finish(decoder.sample_steps(tiny.embed(), noise=noise), states.append)
    assert tuple(state.t for state in states) == noise.inversion.timesteps
    decoder.sample(tiny.embed(), noise=noise, steps=7)


def test_another_embed_or_text_is_the_point_of_it(tiny, recwarn):
    decoder = tiny.decoder()
    noise = decoder.invert(picture(), tiny.embed(), steps=6)
    back = decoder.sample(tiny.embed(), noise=noise)
    for inputs in ((tiny.embed(seed=9), None), (tiny.embed(), tiny.text()), (None, None)):
        assert distance(decoder.sample(*inputs, noise=noise), back) > 1e-3
    assert not recwarn.list


def test_more_eta_varies_more(tiny):
    decoder, embed, image = tiny.decoder(), tiny.embed(), picture()
    noise = decoder.invert(image, embed, steps=12, refine=6)
    off = [distance(decoder.sample(embed, noise=noise, eta=eta, seed=3), image) for eta in (0.0, 0.3, 1.0)]
    assert off[0] < 0.01 < off[1] < off[2]


def test_other_steps_or_another_decoder_are_refused(tiny):
    decoder = tiny.decoder()
    noise = decoder.invert(picture(), steps=6)
    with pytest.raises(ValueError, match="inverted in 6 steps, but is to be decoded in 7; set steps to 6 or 0"):
        decoder.sample(None, noise=noise, steps=7)
    other = replace(noise, inversion=replace(noise.inversion, decoder_id="other/decoder"))
    with pytest.raises(ValueError, match="inverted with the decoder other/decoder, but this one is"):
        decoder.sample(None, noise=other)
    with pytest.raises(ValueError, match=r"strength 0.5 does not go with an inverted x_T"):
        decoder.sample(None, noise=PictureStart(picture(), strength=0.5, noise=noise))


def test_other_guidance_or_sampler_warn(tiny):
    decoder, said = tiny.decoder(), []
    noise = decoder.invert(picture(), steps=6)
    decoder.sample(None, noise=noise, guidance_scale=3.0, sampler="ddpm", warn=said.append)
    assert "inverted at guidance_scale 1, but is decoded at 3" in said[0] and "not with ddpm" in said[1]
    decoder.sample(None, noise=noise, guidance_scale=1.0, sampler="ddim", warn=said.append)
    assert len(said) == 2


def test_a_low_precision_decoder_inverts_and_decodes_in_float32(tiny):
    exact = tiny.decoder()
    state = exact.network.read().state_dict()

    def build(dtype):
        network = type(exact.network.read())(exact.config)
        network.load_state_dict(state)
        return network

    low = Decoder(exact.config, Placed(build, torch.device("cpu"), torch.bfloat16))
    noises = [decoder.invert(picture(), tiny.embed(), steps=8) for decoder in (exact, low)]
    assert torch.allclose(noises[0].x_T, noises[1].x_T, atol=1e-5)
    assert distance(low.sample(tiny.embed(), noise=noises[1]), picture()) < 0.02
    assert low.network.dtype == torch.bfloat16 and low.network.as_float32() is low.network.as_float32()
    assert not low.network.loaded  # nothing needed the bfloat16 weights


def test_chunks_and_broadcasting_change_nothing(tiny, limit_rows):
    decoder, image, embed = tiny.decoder(), picture(3), tiny.embed()
    limit_rows(3)
    whole = decoder.invert(image, embed, steps=5)
    limit_rows(1)
    states = []
    split = finish(decoder.invert_steps(image, embed, steps=5), states.append)
    assert torch.allclose(whole.x_T, split.x_T, atol=1e-4)
    assert [state.index for state in states] == list(range(len(states))) and len(states) >= 15
    alone = decoder.invert(image[1:2], embed, steps=5)
    assert torch.allclose(whole.x_T[1:2], alone.x_T, atol=1e-4)
    several = decoder.invert(image[:1], tiny.embed(2), steps=5)
    assert len(several) == 2 and not torch.equal(several.x_T[0], several.x_T[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refine": -1}, r"DDIM Invert: refine must be a whole number from 0 \(plain DDIM\) to 100, got -1"),
        ({"refine": 101}, "got 101"),
        ({"steps": 1001}, "DDIM Invert: steps must be a whole number from 1 to 1000, got 1001"),
        ({"steps": 1000}, r"DDIM Invert: steps must be a whole number from 1 to 99\d, got 1000"),
        ({"guidance_scale": -1.0}, "DDIM Invert: guidance_scale must be"),
        ({"crop": ""}, "DDIM Invert: crop '' is unknown"),
    ],
)
def test_bad_values_are_refused_before_any_work(tiny, options, message):
    decoder = tiny.decoder()
    with pytest.raises(ValueError, match=message):
        decoder.invert(picture(), **options)
    assert not decoder.network.loaded


def test_bad_inputs_are_refused_before_any_work(tiny):
    decoder = tiny.decoder()
    with pytest.raises(ValueError, match="DDIM Invert: this model was trained on tiny/test"):
        decoder.invert(picture(), tiny.embed(clip_id="other"))
    with pytest.raises(ValueError, match="DDIM Invert: this model was trained on tiny/test"):
        decoder.invert(picture(), text=tiny.text(clip_id="other"))
    with pytest.raises(ValueError, match=r"batch sizes do not match \(image 2, embed 3\)"):
        decoder.invert(picture(2), tiny.embed(3))
    with pytest.raises(ValueError, match="DDIM Invert: image must be"):
        decoder.invert(picture()[0])
    assert not decoder.network.loaded
