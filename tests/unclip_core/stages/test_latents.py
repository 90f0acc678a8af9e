"""A decoder on latents: sizes, nulls, inversion, starts from a picture, masks, hints, previews, memory."""

import logging

import pytest
import torch
import torch.nn.functional as F

from comfyui_unclip.unclip_core.runtime import placement
from comfyui_unclip.unclip_core.stages import Decoder, finish, grid
from comfyui_unclip.unclip_core.types import (
    Embedding,
    GivenNoise,
    PictureStart,
    RandomNoise,
    image_to_model,
    model_to_image,
)


def picture(rows=1, seed=0, height=64, width=64):
    """Smooth, as pictures are."""
    small = torch.rand(rows, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(small, (height, width), mode="bicubic").clamp(0, 1).movedim(1, -1)


def half(rows=1, height=64, width=64):
    """The left half is repainted."""
    mask = torch.zeros(rows, height, width)
    mask[..., : width // 2] = 1.0
    return mask


def through(decoder, image):
    """A picture to its latents and back."""
    network = decoder.autoencoder.read()
    with torch.no_grad():
        return model_to_image(network.decode(network.encode(image_to_model(image))))


def rms(one, two):
    return (one - two).square().mean().sqrt().item()


@pytest.mark.parametrize("kind", ["movq", "kl"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "unipc"])
def test_item_equals_a_batch_of_one_in_any_chunking(tiny, limit_rows, kind, sampler):
    decoder, embed = tiny.latent_decoder(kind=kind), tiny.embed(3)
    options = {"sampler": sampler, "eta": 0.5 if sampler == "ddim" else 0.0}
    batch = decoder.sample(embed, seed=5, **options)
    assert batch.shape == (3, 64, 64, 3) and batch.dtype == torch.float32
    assert batch.min() >= 0 and batch.max() <= 1 and batch.std() > 0.02
    for i in range(3):
        alone = decoder.sample(Embedding(embed.vector[i : i + 1], embed.clip_id), seed=5 + i, **options)
        assert torch.allclose(batch[i : i + 1], alone, atol=1e-4), i
    limit_rows(1)
    assert torch.allclose(batch, decoder.sample(embed, seed=5, **options), atol=1e-4)


def test_sizes_are_the_models_own_or_what_is_asked_for(tiny):
    decoder, embed, said, states = tiny.latent_decoder(), tiny.embed(), [], []
    wide = finish(decoder.sample_steps(embed, width=96, height=48, warn=said.append), states.append)
    assert wide.shape == (1, 48, 96, 3) and states[0].x_t.shape == (1, 4, 6, 12) and not said
    assert decoder.sample(embed, width=96).shape == (1, 64, 96, 3)
    assert decoder.sample(embed, width=50, height=65, warn=said.append).shape == (1, 80, 64, 3)
    assert said == ["Decoder Sample: this decoder paints sides of multiples of 16 pixels: 64 x 80 instead of 50 x 65"]


def test_a_noise_of_its_own_size_sets_the_pictures(tiny):
    decoder, noise = tiny.latent_decoder(), GivenNoise(torch.randn(1, 4, 6, 12))
    image = decoder.sample(tiny.embed(), noise=noise)
    assert image.shape == (1, 48, 96, 3)
    assert torch.equal(image, decoder.sample(tiny.embed(), noise=noise, width=96, height=48))
    over = PictureStart(picture(), strength=0.5, noise=noise)
    assert decoder.sample(tiny.embed(), noise=over).shape == (1, 48, 96, 3)
    own = decoder.sample(tiny.embed(), width=96, height=48, seed=9)
    assert torch.equal(own, decoder.sample(tiny.embed(), noise=RandomNoise(9), width=96, height=48, seed=9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be a whole number of pixels from 1 to 8192"),
        ({"height": 64.0}, "height must be a whole number .* got 64.0"),
        ({"width": 9000}, "got 9000"),
        (
            {"width": 64, "height": 64, "noise": GivenNoise(torch.zeros(1, 4, 6, 12))},
            "width 64 and height 64 do not go with the linked noise, which is one for 96 x 48 pixels; set both to 0",
        ),
        ({"noise": GivenNoise(torch.zeros(1, 3, 8, 8))}, r"with 4 channels for this decoder, got \(8, 8\) with 3"),
        ({"noise": GivenNoise(torch.zeros(1, 4, 7, 8))}, r"sides that are multiples of 2, .* got \(7, 8\) with 4"),
    ],
)
def test_sizes_that_cannot_be_are_refused_before_any_work(tiny, options, message):
    decoder = tiny.latent_decoder()
    with pytest.raises(ValueError, match=f"Decoder Sample: .*{message}"):
        decoder.sample(tiny.embed(), **options)
    assert not decoder.network.loaded and not decoder.autoencoder.loaded


def test_a_pixel_decoder_has_one_size(tiny):
    decoder = tiny.decoder()
    assert decoder.sample(tiny.embed(), width=16, height=16).shape == (1, 16, 16, 3)
    with pytest.raises(ValueError, match="paints 16 x 16 pixels and no other size, got 512 x 16; set width and height"):
        decoder.sample(tiny.embed(), width=512)
    with pytest.raises(ValueError, match="DDIM Invert: this decoder paints 16 x 16"):
        decoder.invert(picture(), height=8)


def test_the_null_is_the_zero_pictures_embedding_and_comes_before_the_network(tiny):
    null, asked = tiny.embed(seed=77), []
    decoder = tiny.latent_decoder()

    def encode():
        asked.append(decoder.network.loaded)
        return null

    plain = Decoder(decoder.config, decoder.network, autoencoder=decoder.autoencoder, encode_null_image=encode)
    guided = plain.sample(tiny.embed(), guidance_scale=3.0)
    assert asked == [False]
    assert torch.equal(guided, plain.sample(tiny.embed(), negative_embed=null, guidance_scale=3.0))
    assert len(asked) == 1  # nothing was missing
    other = plain.sample(tiny.embed(), negative_embed=tiny.embed(seed=1), guidance_scale=3.0)
    assert (other - guided).abs().max() > 1e-3
    with pytest.warns(UserWarning, match=r"no embed is linked, so it paints without any condition, .*; link an embed$"):
        free = plain.sample(guidance_scale=1.0)
    assert torch.allclose(free, plain.sample(null, guidance_scale=1.0), atol=1e-6)
    plain.sample(tiny.embed(), guidance_scale=1.0)
    assert len(asked) == 2  # by the one without an embed
    alone = Decoder(decoder.config, decoder.network, autoencoder=decoder.autoencoder)
    with pytest.raises(ValueError, match="opened without its CLIP; open it with encode_null_image=clip"):
        alone.sample(tiny.embed(), guidance_scale=3.0)


def test_a_text_that_nothing_reads_is_told_and_changes_nothing(tiny):
    decoder, said = tiny.latent_decoder(), []
    plain = decoder.sample(tiny.embed(2), warn=said.append)
    assert not said
    texts = {"text": tiny.text(3), "negative_text": tiny.text()}  # of a batch that would not fit
    assert torch.equal(plain, decoder.sample(tiny.embed(2), **texts, warn=said.append))
    assert len(said) == 1 and "Decoder Sample: this decoder reads no captions, so a text has no effect" in said[0]
    with pytest.raises(ValueError, match="trained on tiny/test"):
        decoder.sample(tiny.embed(), tiny.text(clip_id="other"))
    noise = decoder.invert(picture(), tiny.embed(), tiny.text(), steps=3, refine=0, warn=said.append)
    assert len(said) == 2 and noise.inversion.text_hash == ""


@pytest.mark.parametrize("kind", ["movq", "kl"])
@pytest.mark.parametrize("guidance_scale", [1.0, 1.5])
def test_there_and_back(tiny, kind, guidance_scale, caplog):
    """What comes back is the picture as its own latents have it."""
    decoder, embed, image = tiny.latent_decoder(kind=kind), tiny.embed(2), picture(2)
    with caplog.at_level(logging.INFO, "comfyui_unclip"):
        noise = decoder.invert(image, embed, steps=12, guidance_scale=guidance_scale, refine=8)
    assert noise.x_T.shape == (2, 4, 8, 8) and noise.x_T.dtype == torch.float32
    back = decoder.sample(embed, noise=noise)
    assert rms(back, through(decoder, image)) < 0.01
    found = noise.inversion
    assert found.pixel_error == pytest.approx(2 * rms(back[:1], image[:1]), rel=0.05)  # pixels being -1..1
    assert found.latent_error < 0.02
    assert f"off by {found.latent_error:.2g} in latents and {found.pixel_error:.2g} in pixels" in caplog.text


def test_inverting_counts_its_steps_through(tiny, limit_rows):
    decoder, states = tiny.latent_decoder(), []
    limit_rows(1)
    finish(decoder.invert_steps(picture(2), tiny.embed(), steps=5, refine=0), states.append)
    assert [state.index for state in states] == list(range(15)) and states[-1].total == 15
    assert [state.on_trial for state in states] == [False] * 15  # two pictures, and the first one's way back


def test_a_picture_is_inverted_at_any_size(tiny):
    decoder, image = tiny.latent_decoder(), picture(height=48, width=96)
    noise = decoder.invert(image, tiny.embed(), steps=8, refine=8, width=96, height=48)
    assert noise.x_T.shape == (1, 4, 6, 12)
    assert rms(decoder.sample(tiny.embed(), noise=noise), through(decoder, image)) < 0.01


def test_a_low_precision_decoder_inverts_and_decodes_in_float32(tiny):
    exact, low = tiny.latent_decoder(), tiny.latent_decoder(dtype=torch.bfloat16)
    noises = [decoder.invert(picture(), tiny.embed(), steps=6) for decoder in (exact, low)]
    assert torch.allclose(noises[0].x_T, noises[1].x_T, atol=1e-4)
    pictures = [decoder.sample(tiny.embed(), noise=noises[0]) for decoder in (exact, low)]
    assert torch.allclose(*pictures, atol=1e-5)
    assert not low.network.loaded and not low.autoencoder.loaded


@pytest.mark.parametrize("extra", ["none", "inpaint"])
def test_what_the_mask_keeps_is_kept_to_the_pixel(tiny, extra):
    decoder, image = tiny.latent_decoder(extra), picture(2)
    mask = half()
    mask[:, :, 30:32] = 0.5  # a soft edge, inside one latent pixel
    result = decoder.sample(tiny.embed(), noise=PictureStart(image, mask), steps=5)
    assert torch.allclose(result[:, :, 32:], image[:, :, 32:], atol=1e-6)
    assert (result - image)[:, :, :30].abs().mean() > 0.05
    hard = decoder.sample(tiny.embed(), noise=PictureStart(image, half()), steps=5)
    assert torch.allclose(result[:, :, 30:32], (image + hard)[:, :, 30:32] / 2, atol=1e-5)


def test_what_is_kept_lies_in_x_0_at_every_step_and_is_not_bounded(tiny):
    """The network's own x_0 lies within -1..1, the latents of a picture where they do."""
    decoder, image, states = tiny.latent_decoder(), picture(), []
    decoder.autoencoder.read().quant_conv.weight.data.mul_(5.0)
    with torch.no_grad():
        known = decoder.autoencoder.read().encode(image_to_model(image))
    assert known[..., 4:].abs().max() > 1.0
    finish(decoder.sample_steps(tiny.embed(), noise=PictureStart(image, half())), states.append)
    for state in states:
        assert torch.allclose(state.x0[..., 4:], known[..., 4:], atol=1e-5)
        assert state.x0[..., :4].abs().max() <= 1.0 + 1e-6


def test_the_thinnest_stroke_is_painted(tiny):
    """Between the pixels that a mask's nearest latent would be read from."""
    for extra in ("none", "inpaint"):
        decoder, mask = tiny.latent_decoder(extra), torch.zeros(1, 64, 64)
        mask[:, :, 13] = 1.0
        result = decoder.sample(tiny.embed(), noise=PictureStart(picture(), mask))
        changed = (result - picture()).abs().amax(dim=(0, 1, 3))
        assert changed[13] > 0.05 and changed[:13].max() < 1e-6 and changed[14:].max() < 1e-6


def test_less_strength_stays_closer_to_the_pictures_latents(tiny):
    decoder, image = tiny.latent_decoder(), picture()
    off = []
    for strength in (0.05, 0.4, 0.95):
        start = PictureStart(image, strength=strength)
        off.append(rms(decoder.sample(tiny.embed(), noise=start, steps=6, seed=2), through(decoder, image)))
    assert off[0] < 0.1 and off[0] < off[1] < off[2]


def test_pictures_are_encoded_once_however_many_are_painted_of_each(tiny):
    decoder = tiny.latent_decoder()
    network, encoded = decoder.autoencoder.read(), []
    encode = network.encode
    network.encode = lambda x, *rest: (encoded.append(len(x)), encode(x, *rest))[1]
    start = PictureStart(picture(2), half(2), strength=0.6)
    many = decoder.sample(tiny.embed(), noise=start, count=3, seed=4)
    assert many.shape == (6, 64, 64, 3) and sum(encoded) == 2
    one = decoder.sample(tiny.embed(), noise=PictureStart(picture(2)[1:], half(), strength=0.6), seed=4 + 5)
    assert torch.allclose(many[5:], one, atol=1e-4)


def test_a_wide_picture_and_its_mask_are_cropped_to_the_runs_aspect(tiny):
    decoder, image = tiny.latent_decoder(), picture(height=100, width=64)
    mask = half(height=100)
    start = PictureStart(image, mask)
    result = decoder.sample(tiny.embed(), noise=start, width=64, height=48)
    seen = image[:, 26:74]
    assert torch.allclose(result[:, :, 32:], seen[:, :, 32:], atol=1e-5)


def test_an_inpaint_network_is_told_what_is_known(tiny):
    decoder, image = tiny.latent_decoder("inpaint"), picture()
    mask = torch.zeros(1, 64, 64)
    mask[:, 24:40, 24:40] = 1.0
    network, given = decoder.network.read(), []
    forward = network.forward
    network.forward = lambda x_t, t, conditioning, **rest: (
        given.append(conditioning.extra),
        forward(x_t, t, conditioning, **rest),
    )[1]
    decoder.sample(tiny.embed(), noise=PictureStart(image, mask), guidance_scale=2.0)
    with torch.no_grad():
        known = decoder.autoencoder.read().encode(image_to_model(image))
    keep = torch.ones(1, 1, 8, 8)
    keep[..., 2:6, 2:6] = 0.0
    keep[..., 2, 5] = keep[..., 5, 2] = 1.0  # two corners, as the networks were trained
    expected = torch.cat([known * keep, keep], dim=1)
    assert all(torch.allclose(extra, expected.expand(2, -1, -1, -1), atol=1e-5) for extra in given)


def test_what_an_extra_input_needs_is_asked_for_before_any_work(tiny):
    inpaint, controlled, plain = (tiny.latent_decoder(extra) for extra in ("inpaint", "hint", "none"))
    for noise in (None, PictureStart(picture(), strength=0.5)):
        with pytest.raises(ValueError, match=r"tiny/latent repaints .* there is no mask; link Start From Picture"):
            inpaint.sample(tiny.embed(), noise=noise)
    with pytest.raises(ValueError, match=r"DDIM Invert: tiny/latent repaints .* load the model without -inpaint"):
        inpaint.invert(picture())
    with pytest.raises(ValueError, match="follows a depth picture, but got none; put Depth Hint between"):
        controlled.sample(tiny.embed())
    with pytest.raises(ValueError, match="Depth Hint: the decoder tiny/latent has no input for a hint; load a contr"):
        plain.with_depth_hint(picture())
    with pytest.raises(ValueError, match="Depth Hint: image must be"):
        controlled.with_depth_hint(picture()[0])
    assert not any(decoder.network.loaded for decoder in (inpaint, controlled, plain))


def test_a_depth_hint_leads_and_leaves_the_decoder_as_it_was(tiny):
    decoder = tiny.latent_decoder("hint")
    hints = [decoder.with_depth_hint(picture(seed=seed)) for seed in (1, 2)]
    one, two = (hinted.sample(tiny.embed(), seed=3) for hinted in hints)
    assert (one - two).abs().max() > 1e-2 and decoder.hint is None and hints[0].network is decoder.network
    both = decoder.with_depth_hint(torch.cat([picture(seed=1), picture(seed=2)]))
    pair = both.sample(tiny.embed(), seed=3, noise_per_item=False)
    assert torch.allclose(pair, torch.cat([one, two]), atol=1e-4)
    with pytest.raises(ValueError, match=r"batch sizes do not match \(embed 3, hint 2\)"):
        both.sample(tiny.embed(3))
    wide = decoder.with_depth_hint(picture(width=128))
    assert wide.sample(tiny.embed(), width=128).shape == (1, 64, 128, 3)
    squashed = decoder.with_depth_hint(picture(width=128), "squash")
    assert (squashed.sample(tiny.embed()) - wide.sample(tiny.embed())).abs().max() > 1e-3
    noise = hints[0].invert(picture(), tiny.embed(), steps=8, refine=8)
    assert rms(hints[0].sample(tiny.embed(), noise=noise), through(decoder, picture())) < 0.01


def test_previews_are_cheap_and_fit_what_is_painted(tiny):
    decoder, states = tiny.latent_decoder(), []
    network, decoded = decoder.autoencoder.unpacked().read(), []
    decode = network.decode
    network.decode = lambda x, *rest: (decoded.append(len(x)), decode(x, *rest))[1]
    finish(decoder.sample_steps(tiny.embed(2), steps=6), states.append)
    assert not decoded  # nobody looked
    shown = [state.picture() for state in states]
    assert all(view.shape == (2, 3, 8, 8) and view.dtype == torch.float32 for view in shown)
    assert sum(decoded) == 6  # the fit's own, not one a step
    with torch.no_grad():
        latents = network.encode(image_to_model(picture(3, seed=8)))
        thin = F.avg_pool2d(decode(latents), 8)
    view = grid.show_latents(latents, grid.colours_of(decoder.autoencoder, decoder.config.autoencoder))
    # Random weights mix all channels and places: what a linear map leaves open is small, not nothing.
    assert F.mse_loss(view, thin) < 0.6 * thin.var(dim=(0, 2, 3)).mean()


def test_a_preview_of_latents_that_are_colours_is_exact(tiny):
    decoder = tiny.latent_decoder(kind="kl")
    network = decoder.autoencoder.unpacked().read()
    mix = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    network.encode = lambda x: torch.einsum("bdhw,cd->bchw", F.avg_pool2d(x, 8) - 0.1, mix)
    back = torch.linalg.pinv(mix)
    network.decode = lambda z: F.interpolate(torch.einsum("bchw,dc->bdhw", z, back) + 0.1, scale_factor=8.0)
    (state, *_) = list(decoder.sample_steps(tiny.embed()))
    latents = network.encode(image_to_model(picture()))
    assert torch.allclose(state.preview(latents), F.avg_pool2d(image_to_model(picture()), 8), atol=1e-4)


def test_one_large_network_is_in_memory_at_a_time(tiny, monkeypatch):
    monkeypatch.setattr(placement, "LARGE_BYTES", 0)
    decoder = tiny.latent_decoder()
    networks, seen = (decoder.network, decoder.autoencoder), []
    start = PictureStart(picture(), strength=0.5)
    finish(decoder.sample_steps(tiny.embed(), noise=start), lambda _: seen.append([each.loaded for each in networks]))
    assert seen == [[True, False]] * 4 and [each.loaded for each in networks] == [False, True]


@pytest.mark.parametrize("kind", ["movq", "kl"])
def test_a_picture_too_large_for_memory_is_made_in_strips(tiny, monkeypatch, kind):
    decoder = tiny.latent_decoder(kind=kind)
    start = PictureStart(picture(), half(), strength=0.7)
    whole = decoder.sample(tiny.embed(), noise=start, width=128)
    network, used = decoder.autoencoder.read(), []
    for name in ("encode", "decode"):
        original = getattr(network, name)
        monkeypatch.setattr(
            network, name, lambda x, strip, original=original: (used.append(strip), original(x, strip))[1]
        )
    monkeypatch.setattr(grid, "STRIP", 700)
    monkeypatch.setattr(grid, "free_bytes", lambda device: 2**16)
    striped = decoder.sample(tiny.embed(), noise=start, width=128)
    assert used == [700, 700] and (striped - whole).abs().max() < 1e-3


def test_what_runs_out_of_memory_is_made_again_in_smaller_parts(tiny, monkeypatch):
    decoder = tiny.latent_decoder()
    whole = decoder.sample(tiny.embed(3), seed=1)
    network, tried = decoder.autoencoder.read(), []
    decode = network.decode

    def full(x, strip):
        tried.append((len(x), strip))
        if strip is None or strip > 5000:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return decode(x, strip)

    monkeypatch.setattr(network, "decode", full)
    monkeypatch.setattr(grid, "rows_that_fit", lambda *_: 3)
    assert torch.allclose(decoder.sample(tiny.embed(3), seed=1), whole, atol=1e-4)
    assert tried == [(3, None), (1, None), (1, 2**14), *[(1, 2**12)] * 3]
    monkeypatch.setattr(network, "decode", lambda x, strip: full(x, None))
    with pytest.raises(MemoryError, match="Decoder Sample: one item at a time does not fit into memory"):
        decoder.sample(tiny.embed())


def test_a_run_can_be_cancelled_between_two_pictures(tiny, limit_rows):
    decoder, states, decoded = tiny.latent_decoder(), [], []
    network = decoder.autoencoder.read()
    decode = network.decode
    network.decode = lambda x, strip: (decoded.append(len(states)), decode(x, strip))[1]
    limit_rows(1)
    pictures = finish(decoder.sample_steps(tiny.embed(3), steps=2), states.append)
    assert decoded == [6, 6, 7] and len(pictures) == 3  # seen between the first two, and before the third
    assert [state.index for state in states] == [0, 1, 2, 3, 4, 5, 5, 5]


def test_a_handle_without_its_autoencoder_is_no_latent_decoder(tiny):
    decoder = tiny.latent_decoder()
    alone = Decoder(decoder.config, decoder.network, encode_null_image=decoder.encode_null_image)
    with pytest.raises(ValueError, match=r"Decoder Sample: .* paints latents, but it was opened without its"):
        alone.sample(tiny.embed())
