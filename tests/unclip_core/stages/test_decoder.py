"""The decoder stage: seeds, broadcasting, nulls, guidance, noise."""

import copy
from dataclasses import FrozenInstanceError

import pytest
import torch

from comfyui_unclip.unclip_core.diffusion.noise import ItemNoise
from comfyui_unclip.unclip_core.stages import finish
from comfyui_unclip.unclip_core.types import Embedding, GivenNoise, PictureStart, RandomNoise, model_to_image


def images(decoder, *inputs, **options):
    return decoder.sample(*inputs, **options)


def rows_of(embed, rows):
    return Embedding(embed.vector[rows], embed.clip_id)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
@pytest.mark.parametrize("learned_variance", [False, True])
def test_item_equals_a_batch_of_one(tiny, sampler, learned_variance):
    decoder, embed, text = tiny.decoder(learned_variance=learned_variance), tiny.embed(3), tiny.text(3)
    options = {"sampler": sampler, "eta": 0.5 if sampler == "ddim" else 0.0}
    batch = images(decoder, embed, text, seed=5, **options)
    assert batch.shape == (3, 16, 16, 3) and batch.dtype == torch.float32 and batch.device.type == "cpu"
    assert batch.min() >= 0 and batch.max() <= 1 and batch.std() > 0.05
    for i in range(3):
        alone = images(decoder, rows_of(embed, [i]), text.take([i]), seed=5 + i, **options)
        assert torch.allclose(batch[i : i + 1], alone, atol=2e-5), i


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_chunks_change_nothing(tiny, limit_rows, rows):
    decoder, embed, text = tiny.decoder(), tiny.embed(5), tiny.text(1)
    for options in ({}, {"noise_per_item": False}, {"noise": GivenNoise(torch.randn(5, 3, 16, 16))}):
        options = {"seed": 5, "sampler": "ddpm", **options}
        limit_rows(5)
        whole = images(decoder, embed, text, **options)
        limit_rows(rows)
        states = []
        split = finish(decoder.sample_steps(embed, text, **options), states.append)
        assert torch.allclose(whole, split, atol=2e-5)
        assert [state.index for state in states] == list(range(4 * -(-5 // rows)))
        assert max(len(state.x_t) for state in states) <= rows


@pytest.mark.parametrize(
    ("embeds", "texts", "noises"), [(3, 1, 1), (1, 3, 0), (1, 1, 3), (3, 3, 3), (3, 0, 1), (0, 3, 1)]
)
def test_batches_of_one_broadcast(tiny, embeds, texts, noises):
    decoder = tiny.decoder()
    embed = tiny.embed(embeds) if embeds else None
    text = tiny.text(texts) if texts else None
    noise = GivenNoise(torch.randn(noises, 3, 16, 16)) if noises else None
    batch = images(decoder, embed, text, noise=noise, seed=5)
    assert batch.shape[0] == 3
    for i in range(3):
        alone = images(
            decoder,
            rows_of(embed, [i if embeds > 1 else 0]) if embed else None,
            text.take([i if texts > 1 else 0]) if text else None,
            noise=GivenNoise(noise.x_T[i if noises > 1 else 0][None]) if noise else None,
            seed=5 + i,
        )
        assert torch.allclose(batch[i : i + 1], alone, atol=2e-5), i


def test_count_paints_each_item_several_times_in_a_row(tiny):
    decoder, embed, text = tiny.decoder(), tiny.embed(2), tiny.text(2)
    noise, image = GivenNoise(torch.randn(2, 3, 16, 16)), torch.rand(2, 16, 16, 3)
    mask = (torch.rand(16, 16) > 0.5).float()
    options = {"seed": 5, "sampler": "ddpm"}
    negative = {"negative_embed": tiny.embed(2, seed=8), "negative_text": tiny.text(2, seed=8)}
    start = PictureStart(image, mask, noise=noise)
    batch = images(decoder, embed, text, noise=start, count=3, **negative, **options)
    rows = [0, 0, 0, 1, 1, 1]
    repeated = PictureStart(image[rows], mask, noise=GivenNoise(noise.x_T[rows]))
    away = {"negative_embed": rows_of(tiny.embed(2, seed=8), rows), "negative_text": tiny.text(2, seed=8).take(rows)}
    expected = images(decoder, rows_of(embed, rows), text.take(rows), noise=repeated, **away, **options)
    assert torch.allclose(batch, expected, atol=2e-5)
    one = images(decoder, rows_of(embed, [0]), seed=5, sampler="ddpm", count=3)  # a batch of one broadcasts
    assert torch.allclose(one, images(decoder, rows_of(embed, [0, 0, 0]), seed=5, sampler="ddpm"), atol=2e-5)
    assert images(decoder, None, seed=5, count=2).shape[0] == 2
    for count in (0, 4097, True):
        with pytest.raises(ValueError, match=f"Decoder Sample: count must be .* from 1 to 4096, got {count}"):
            images(decoder, embed, count=count)


def test_embeddings_made_of_each_caption_are_painted_with_it(tiny, limit_rows):
    """A prior with a count above 1 gives item = caption * count + k; each goes with its own caption."""
    decoder, embed, text, negative = tiny.decoder(), tiny.embed(6), tiny.text(3), tiny.text(2, seed=9)
    options = {"guidance_scale": 2.0, "sampler": "ddpm"}
    whole = images(decoder, embed, text, negative_text=negative, seed=4, **options)
    each, away = text.take([0, 0, 1, 1, 2, 2]), negative.take([0, 0, 0, 1, 1, 1])
    assert torch.equal(whole, images(decoder, embed, each, negative_text=away, seed=4, **options))
    for i in range(6):
        alone = images(
            decoder, rows_of(embed, [i]), each.take([i]), negative_text=away.take([i]), seed=4 + i, **options
        )
        assert torch.allclose(whole[i : i + 1], alone, atol=2e-5), i
    others = images(decoder, embed, each.take([2, 3, 4, 5, 0, 1]), negative_text=away, seed=4, **options)
    assert (whole - others).abs().flatten(1).max(1).values.min() > 1e-3
    limit_rows(4)
    assert torch.allclose(whole, images(decoder, embed, text, negative_text=negative, seed=4, **options), atol=2e-5)
    for wrong in (4, 12):
        with pytest.raises(ValueError, match=f"batch sizes do not match .embed 6, text {wrong}"):
            decoder.sample(embed, tiny.text(wrong))


def test_shared_noise_gives_equal_items_for_equal_conditions(tiny):
    decoder, embed = tiny.decoder(), rows_of(tiny.embed(1), [0, 0, 0])
    shared = images(decoder, embed, seed=5, sampler="ddpm", noise_per_item=False)
    assert torch.allclose(shared[1:], shared[:1].expand(2, -1, -1, -1), atol=2e-5)
    assert torch.allclose(shared[:1], images(decoder, tiny.embed(1), seed=5, sampler="ddpm"), atol=2e-5)
    own = images(decoder, embed, seed=5, sampler="ddpm")
    assert (own[0] - own[1]).abs().max() > 0.05


@pytest.mark.parametrize("null_embed", ["zero", "learned"])
@pytest.mark.parametrize("null_text", ["learned", "empty_caption"])
@pytest.mark.parametrize("given", ["both", "embed", "text", "neither"])
def test_guidance_equals_two_separate_conditions(tiny, null_embed, null_text, given):
    """One batched forward of the pair, against each half conditioned alone."""
    empty = tiny.text(1, seed=50) if null_text == "empty_caption" else None
    decoder = tiny.decoder(null_text, null_embed, encode_null=lambda: empty)
    embed = tiny.embed(2) if given in ("both", "embed") else None
    text = tiny.text(2) if given in ("both", "text") else None
    batch = 2 if given != "neither" else 1
    network = decoder.network.read()

    def condition(embed, text):
        text = text or empty
        fields = (text.tokens, text.mask, text.embed, text.ids) if text else ()
        fields = [x.expand(batch, *x.shape[1:]) for x in fields]
        return network.condition(embed.vector if embed else None, *fields, batch=batch)

    with torch.no_grad():
        conditional, unconditional = condition(embed, text), condition(None, None)
        x_T = ItemNoise(5, batch, "decoder").draw((3, 16, 16))
        t = torch.full((batch,), 999)
        halves = [network(x_T, t, half) for half in (conditional, unconditional)]
        expected = halves[1] + 3.0 * (halves[0] - halves[1])
    x0 = (x_T * 4.928e-5 - expected * 1.0).clamp(-1, 1)  # v at t = 999: alpha 4.9e-5, sigma 1
    network.calls.clear()
    states = []
    finish(decoder.sample_steps(embed, text, guidance_scale=3.0, steps=2, seed=5), states.append)
    assert [call[0] for call in network.calls] == [2 * batch] * 2
    assert torch.allclose(states[0].x0, x0, atol=1e-4)
    network.calls.clear()
    decoder.sample(embed, text, guidance_scale=1.0, steps=2, seed=5)
    assert [call[0] for call in network.calls] == [batch] * 2


def test_conditioning_is_computed_once_and_matters(tiny):
    decoder, calls = tiny.decoder(), []
    network = decoder.network.read()
    original = network.condition
    network.condition = lambda *args, **kwargs: (calls.append(1), original(*args, **kwargs))[1]
    base = images(decoder, tiny.embed(), tiny.text(), seed=1)
    assert len(calls) == 1
    others = [
        images(decoder, tiny.embed(seed=9), tiny.text(), seed=1),
        images(decoder, tiny.embed(), tiny.text(seed=9), seed=1),
        images(decoder, None, tiny.text(), seed=1),
        images(decoder, tiny.embed(), None, seed=1),
        images(decoder, tiny.embed(), tiny.text(), seed=2),
    ]
    assert all((base - other).abs().max() > 1e-3 for other in others)


@pytest.mark.parametrize("null_embed", ["zero", "learned"])
@pytest.mark.parametrize("null_text", ["learned", "empty_caption"])
@pytest.mark.parametrize("negative", ["both", "embed", "text"])
@pytest.mark.parametrize("given", ["both", "embed", "text"])
def test_guidance_leads_away_from_the_negatives(tiny, null_embed, null_text, given, negative):
    """At scale 0 a run paints its unconditional half alone: the negatives, and the nulls where none is given."""
    empty = tiny.text(1, seed=50)
    decoder = tiny.decoder(null_text, null_embed, encode_null=lambda: empty)
    inputs = tiny.embed(2) if given != "text" else None, tiny.text(2) if given != "embed" else None
    away_embed = tiny.embed(2, seed=8) if negative != "text" else None
    away_text = tiny.text(2, seed=8) if negative != "embed" else None
    away = {"negative_embed": away_embed, "negative_text": away_text}
    options = {"seed": 5, "steps": 3}
    unconditional = images(decoder, *inputs, **away, guidance_scale=0.0, **options)
    expected = images(decoder, away_embed, away_text, guidance_scale=1.0, **options)
    assert torch.allclose(unconditional, expected, atol=2e-5)
    plain, led = (images(decoder, *inputs, **negatives, guidance_scale=3.0, **options) for negatives in ({}, away))
    assert (plain - led).abs().max() > 1e-3


def test_negatives_that_are_the_nulls_own_values_change_nothing(tiny):
    empty, zero = tiny.text(1, seed=50), Embedding(torch.zeros(1, tiny.dim), tiny.clip_id)
    decoder = tiny.decoder("empty_caption", "zero", encode_null=lambda: empty)
    inputs, options = (tiny.embed(2), tiny.text(2)), {"seed": 5, "guidance_scale": 3.0}
    plain = images(decoder, *inputs, **options)
    assert torch.equal(images(decoder, *inputs, negative_text=empty, **options), plain)
    zeros = images(decoder, *inputs, negative_embed=zero, negative_text=empty, **options)
    assert torch.allclose(zeros, plain, atol=2e-5)


def test_negatives_broadcast_and_chunks_change_nothing(tiny, limit_rows):
    decoder, options = tiny.decoder(), {"seed": 5, "sampler": "ddpm", "guidance_scale": 2.5}
    away = {"negative_embed": tiny.embed(3, seed=8), "negative_text": tiny.text(1, seed=8)}
    batch = images(decoder, tiny.embed(), tiny.text(3), **away, **options)
    assert len(batch) == 3
    limit_rows(2)
    assert torch.allclose(images(decoder, tiny.embed(), tiny.text(3), **away, **options), batch, atol=2e-5)
    alone = {**away, "negative_embed": rows_of(away["negative_embed"], [2])}
    got = images(decoder, tiny.embed(), tiny.text(3).take([2]), **alone, **{**options, "seed": 7})
    assert torch.allclose(got, batch[2:], atol=2e-5)
    with pytest.raises(ValueError, match=r"batch sizes do not match \(embed 3, negative_text 2\)"):
        images(decoder, tiny.embed(3), negative_text=tiny.text(2))


def test_negatives_without_effect_are_told(tiny):
    decoder, heard = tiny.decoder(), []
    for negatives in ({"negative_embed": tiny.embed(seed=8)}, {"negative_text": tiny.text(seed=8)}):
        plain = images(decoder, tiny.embed(), guidance_scale=1.0)
        assert torch.equal(images(decoder, tiny.embed(), guidance_scale=1.0, warn=heard.append, **negatives), plain)
        assert len(heard) == 1 and "at guidance_scale 1 the negatives have no effect" in heard.pop()
        images(decoder, tiny.embed(), guidance_scale=2.0, warn=heard.append, **negatives)
        assert not heard


def test_the_null_text_is_encoded_at_most_once_a_run_and_only_where_it_is_needed(tiny, limit_rows):
    """Encoding it brings CLIP to the device, from which the decoder would have to go."""
    encoded = []

    def encode():
        encoded.append(1)
        return tiny.text(1, seed=50)

    decoder = tiny.decoder("empty_caption", encode_null=encode)
    limit_rows(1)
    images(decoder, tiny.embed(3), tiny.text(), guidance_scale=2.0)
    assert len(encoded) == 1
    images(decoder, tiny.embed(), tiny.text(), guidance_scale=1.0)
    images(decoder, tiny.embed(), tiny.text(), guidance_scale=2.0, negative_text=tiny.text(seed=8))
    decoder.invert(torch.rand(2, 16, 16, 3), tiny.embed(), tiny.text(), steps=2, refine=0)
    assert len(encoded) == 1
    decoder.invert(torch.rand(2, 16, 16, 3), steps=2, refine=0)
    assert len(encoded) == 2


def test_a_copied_handle_has_the_same_network(tiny):
    """Other programs copy what passes their wires, before and after its weights were read."""
    decoder = tiny.decoder()
    assert copy.deepcopy(decoder).network is decoder.network
    decoder.sample(tiny.embed(), steps=1)
    assert copy.deepcopy(decoder).network is decoder.network


def test_handles_cannot_be_changed(tiny):
    for handle in (tiny.decoder(), tiny.prior(), tiny.upsampler()):
        for name in ("network", "config", "encode_null", "another"):
            with pytest.raises(FrozenInstanceError):
                setattr(handle, name, None)


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_learned_variance_is_not_guided(tiny, scale):
    """Variance is no score: that of the unconditional half must not reach the picture, at no guidance."""
    decoder = tiny.decoder(learned_variance=True, sampler="ddpm")
    network = decoder.network.read()
    forward = network.forward

    def with_variance_shifted(rows):
        def shift(*args, **kwargs):
            output = forward(*args, **kwargs).clone()
            output[rows, 3:] += 1.0
            return output

        network.forward = shift
        return images(decoder, tiny.embed(2), tiny.text(2), guidance_scale=scale, steps=10)

    plain, conditional, unconditional = map(with_variance_shifted, (slice(0, 0), slice(0, 2), slice(2, 4)))
    assert torch.equal(unconditional, plain)
    assert (conditional - plain).abs().max() > 0.01


def test_a_value_without_effect_is_told(tiny):
    decoder, embed, heard = tiny.decoder(), tiny.embed(), []
    for sampler in ("ddpm", "dpmpp_2m", None):  # None: this decoder's own is dpmpp_2m
        decoder.sample(embed, sampler=sampler, eta=0.5, warn=heard.append)
    assert [
        f"eta 0.5 has no effect with the sampler {name}" in text
        for name, text in zip(("ddpm", "dpmpp_2m", "dpmpp_2m"), heard, strict=True)
    ] == [True] * 3
    heard.clear()
    decoder.sample(embed, sampler="ddim", eta=0.5, warn=heard.append)
    decoder.sample(embed, sampler="ddpm", eta=0.0, warn=heard.append)
    noise = decoder.invert(torch.rand(1, 16, 16, 3), embed, steps=3)
    decoder.sample(embed, noise=noise, eta=0.5, warn=heard.append)  # decoded with ddim
    assert not heard


def test_a_run_without_any_condition_is_told(tiny):
    decoder, heard = tiny.decoder(), []
    decoder.sample(None, warn=heard.append)
    assert len(heard) == 1 and "neither embed nor text is linked" in heard[0]
    heard.clear()
    decoder.sample(tiny.embed(), warn=heard.append)
    decoder.sample(None, tiny.text(), warn=heard.append)
    noise = decoder.invert(torch.rand(1, 16, 16, 3), steps=3)
    decoder.sample(None, noise=noise, warn=heard.append)  # leads back to the picture
    assert not heard


def test_given_noise_is_where_it_starts(tiny):
    decoder, x_T = tiny.decoder(), torch.randn(2, 3, 16, 16)
    states = []
    finish(decoder.sample_steps(tiny.embed(), noise=GivenNoise(x_T), sampler="ddim", guidance_scale=1.0), states.append)
    with torch.no_grad():
        network = decoder.network.read()
        output = network(
            x_T, torch.tensor([999]), network.condition(tiny.embed(2).vector[[0, 0]] * 0 + tiny.embed().vector)
        )
    assert torch.allclose(states[0].x0, (x_T * 4.928e-5 - output).clamp(-1, 1), atol=1e-4)


def test_giving_the_seeds_own_noise_changes_nothing(tiny):
    """Random Noise with the seed's start, then the same seed: the fresh noise of each step must not shift."""
    decoder = tiny.decoder()
    drawn = images(decoder, tiny.embed(2), seed=5, sampler="ddpm")
    for start in (RandomNoise(5, 2), GivenNoise(ItemNoise(5, 2, "decoder").draw((3, 16, 16)))):
        assert torch.equal(images(decoder, tiny.embed(2), noise=start, seed=5, sampler="ddpm"), drawn)


def test_deterministic_samplers_depend_on_the_start_alone(tiny):
    decoder, noise = tiny.decoder(), GivenNoise(torch.randn(1, 3, 16, 16))
    for sampler, same in (("ddim", True), ("dpmpp_2m", True), ("ddpm", False)):
        one, two = (images(decoder, tiny.embed(), noise=noise, seed=seed, sampler=sampler) for seed in (1, 2))
        assert torch.equal(one, two) is same, sampler
    noisy = images(decoder, tiny.embed(), noise=noise, seed=1, sampler="ddim", eta=1.0)
    assert not torch.equal(noisy, images(decoder, tiny.embed(), noise=noise, seed=1, sampler="ddim"))


def test_result_is_the_last_x0(tiny):
    states = []
    result = finish(tiny.decoder().sample_steps(tiny.embed(2)), states.append)
    assert torch.equal(result, model_to_image(states[-1].x0))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m", "unipc"])
def test_a_network_of_patches_paints_no_lattice(tiny, sampler):
    """Random weights paint one of 0.3, by their biases and by what they cannot see of the noise."""
    states = []
    decoder = tiny.decoder(patch_size=2, side=32)
    finish(decoder.sample_steps(tiny.embed(2), tiny.text(2), sampler=sampler, steps=8), states.append)
    places = states[-1].x0.unflatten(2, (16, 2)).unflatten(4, (16, 2)).mean((2, 4))  # (B, C, 2, 2)
    assert (places - places.mean((2, 3), keepdim=True)).abs().max() < 0.1  # the pictures' own are left


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "Decoder Sample: steps must be a whole number from 1 to 1000, got -1"),
        ({"guidance_scale": float("inf")}, "Decoder Sample: guidance_scale must be"),
        ({"eta": 1.5}, r"Decoder Sample: eta must be a number from 0 \(no fresh noise\) to 1, got 1.5"),
        ({"eta": float("nan")}, "got nan"),
        ({"sampler": ""}, "sampler '' is unknown"),
        (
            {"noise": GivenNoise(torch.zeros(1, 3, 64, 64))},
            r"noise must be 16 x 16 with 3 channels .* got \(64, 64\)",
        ),
        ({"noise": GivenNoise(torch.zeros(2, 3, 16, 16))}, r"batch sizes do not match \(embed 3, noise 2\)"),
    ],
)
def test_bad_values_are_refused_before_any_work(tiny, options, message):
    decoder = tiny.decoder()
    with pytest.raises(ValueError, match=message):
        decoder.sample(tiny.embed(3), **options)
    assert not decoder.network.loaded


def test_another_clips_inputs_are_refused(tiny):
    decoder = tiny.decoder()
    with pytest.raises(
        ValueError, match=r"Decoder Sample: this model was trained on tiny/test \(12-d\).*1024-d from ViT-H"
    ):
        decoder.sample(tiny.embed(dim=1024, clip_id="ViT-H-14"))
    with pytest.raises(ValueError, match="from other"):
        decoder.sample(tiny.embed(), tiny.text(clip_id="other"))
    with pytest.raises(ValueError, match="text must be a TextEncoding, got str"):
        decoder.sample(tiny.embed(), "a star")
    with pytest.raises(ValueError, match="Decoder Sample: embed must be an Embedding, got TextEncoding"):
        decoder.sample(tiny.text())
    with pytest.raises(ValueError, match="Decoder Sample: negative_embed must be an Embedding, got str"):
        decoder.sample(tiny.embed(), negative_embed="a star")
    with pytest.raises(ValueError, match="1024-d from ViT-H"):
        decoder.sample(tiny.embed(), negative_embed=tiny.embed(dim=1024, clip_id="ViT-H-14"))
    with pytest.raises(ValueError, match="from other"):
        decoder.sample(tiny.embed(), negative_text=tiny.text(clip_id="other"))
