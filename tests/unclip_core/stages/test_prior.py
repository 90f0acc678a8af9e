"""The prior stage: seeds, order, candidates, guidance, nulls, scale."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from comfyui_unclip.unclip_core.diffusion.denoiser import Denoiser
from comfyui_unclip.unclip_core.diffusion.noise import ItemNoise
from comfyui_unclip.unclip_core.diffusion.samplers import ddpm
from comfyui_unclip.unclip_core.diffusion.schedule import Schedule
from comfyui_unclip.unclip_core.stages import finish
from comfyui_unclip.unclip_core.stages.text import choose_closest


def vectors(prior, text, **options):
    return prior.sample(text, **options).vector


def test_item_equals_a_batch_of_one_text_row_major(tiny):
    prior, text = tiny.prior(), tiny.text(3)
    batch = vectors(prior, text, count=2, seed=10)
    assert batch.shape == (6, tiny.dim) and batch.dtype == torch.float32
    for item in range(6):
        alone = vectors(prior, text.take([item // 2]), seed=10 + item)
        assert torch.allclose(batch[item : item + 1], alone, atol=1e-5), item
    assert torch.cdist(batch, batch).fill_diagonal_(9).min() > 1e-3


@pytest.mark.parametrize("negative", [0, 1, 3])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_chunks_change_nothing(tiny, limit_rows, rows, negative):
    prior, text = tiny.prior(), tiny.text(3)
    options = {"count": 3, "candidates": 2, "seed": 4}
    if negative:
        options["negative_text"] = tiny.text(negative, seed=8)
    whole = vectors(prior, text, **options)
    limit_rows(rows)
    states = []
    split = finish(prior.sample_steps(text, **options), states.append).vector
    assert torch.allclose(whole, split, atol=1e-5)
    chunks = -(-9 // rows)
    assert [state.index for state in states] == list(range(4 * chunks))
    assert {state.total for state in states} == {4 * chunks}


def test_equals_sampling_by_hand(tiny):
    """Scale, guidance, prefix cache and unscale, against the plain forward."""
    prior, text = tiny.prior(scaling="mean_std"), tiny.text(2, norm=10.0)
    network = prior.network.read()
    network.mean.copy_(torch.linspace(-1, 1, tiny.dim))
    network.std.copy_(torch.linspace(0.5, 2, tiny.dim))
    null = [x.expand(2, *x.shape[1:]) for x in network.null_text(1)]

    def guided(x, step):
        t = torch.full((2,), step.t)
        conditional = network(x, t, text.tokens, text.embed, text.mask)
        unconditional = network(x, t, *null)
        return unconditional + 3.0 * (conditional - unconditional)

    noise = ItemNoise(6, 2, "prior")
    x_T, respaced = noise.draw((tiny.dim,)), Schedule(prior.config.schedule).respace(5)
    steps = ddpm(Denoiser(guided, prior.config.schedule.prediction), x_T, respaced, noise=noise)
    with torch.no_grad():
        for state in steps:
            last = state.x_t
    expected = network.unscale(last)
    got = vectors(prior, text, steps=5, guidance_scale=3.0, candidates=1, seed=6)
    assert torch.allclose(got, expected, atol=1e-4)


def test_candidates_keep_the_closest(tiny):
    prior, text = tiny.prior(), tiny.text(2)
    for item in range(2):
        single = text.take([item])
        # Candidate c alone cannot be asked for, so the best of the first n must be reached or beaten by n + 1.
        scores = [
            F.cosine_similarity(vectors(prior, single, candidates=n, seed=3 + item), single.embed).item()
            for n in (1, 2, 3, 6)
        ]
        assert all(more >= fewer - 1e-6 for fewer, more in pairwise(scores))
        assert scores[-1] > scores[0] + 1e-4
        both = vectors(prior, text, candidates=6, seed=3)[item]
        assert F.cosine_similarity(both, single.embed[0], dim=0).item() == pytest.approx(scores[-1], abs=1e-5)


def test_choice_is_by_cosine_to_each_items_own_text(tiny):
    text = replace(tiny.text(2), embed=torch.eye(3)[:2])
    candidates = torch.tensor([[[5.0, 5.0, 0.0], [0.3, 0.1, 0.0]], [[0.0, 0.2, 0.0], [9.0, 9.0, 0.0]]])
    chosen = choose_closest(candidates, text, "tiny")
    assert torch.allclose(chosen.vector, F.normalize(torch.tensor([[0.3, 0.1, 0.0], [0.0, 0.2, 0.0]]), dim=-1))
    assert chosen.captions == ("caption 0", "caption 1")
    two_of_each = choose_closest(candidates.repeat_interleave(2, 0), text, "tiny")  # item = row * count + k
    assert torch.equal(two_of_each.vector, chosen.vector.repeat_interleave(2, 0))
    assert two_of_each.captions == ("caption 0", "caption 0", "caption 1", "caption 1")
    of_one = choose_closest(candidates, text.take([1]), "tiny")  # one caption for all rows
    assert of_one.captions == ("caption 1", "caption 1") and torch.equal(of_one.vector[1], chosen.vector[1])
    assert torch.equal(choose_closest(candidates, replace(text, normalised=False), "tiny").vector[0], candidates[0, 1])


def test_one_forward_without_guidance_a_pair_with_it(tiny):
    prior = tiny.prior()
    for scale, rows in ((1.0, 6), (3.0, 12), (0.0, 12)):
        prior.network.read().calls.clear()
        vectors(prior, tiny.text(3), guidance_scale=scale, candidates=2, steps=4)
        assert [call[0] for call in prior.network.read().calls] == [rows] * 4
    prior.network.read().calls.clear()
    vectors(prior, tiny.text(1), candidates=1)
    assert [call[0] for call in prior.network.read().calls] == [2] * 4  # the stack's own steps and scale


def test_prefix_is_computed_once(tiny):
    prior, text, calls = tiny.prior(), tiny.text(3), []
    network = prior.network.read()
    original = network.prefix
    network.prefix = lambda tokens, *rest: (calls.append(len(tokens)), original(tokens, *rest))[1]
    vectors(prior, text, count=4, candidates=3, guidance_scale=2.0)
    assert calls == [4]  # three captions and one null, whatever count and candidates


def test_guidance_zero_ignores_the_caption_and_one_ignores_the_negative(tiny):
    prior, other = tiny.prior(), tiny.text(1, seed=77)
    options = {"candidates": 1, "seed": 2}
    zero = [vectors(prior, text, guidance_scale=0.0, **options) for text in (tiny.text(), other)]
    assert torch.allclose(*zero, atol=1e-6)
    with pytest.warns(UserWarning, match="Prior: at guidance_scale 1 negative_text has no effect") as warned:
        one = [vectors(prior, tiny.text(), guidance_scale=1.0, negative_text=n, **options) for n in (None, other)]
    assert torch.equal(*one) and len(warned) == 1
    two = [vectors(prior, tiny.text(), guidance_scale=2.0, negative_text=n, **options) for n in (None, other)]
    assert not torch.allclose(*two, atol=1e-3)


def test_empty_caption_is_the_null_of_such_stacks(tiny):
    prior = tiny.prior(null_text="empty_caption", encode_null=lambda: tiny.text(1, seed=50))
    options = {"guidance_scale": 2.0, "candidates": 1}
    by_null = vectors(prior, tiny.text(2), **options)
    assert torch.equal(by_null, vectors(prior, tiny.text(2), negative_text=tiny.text(1, seed=50), **options))
    with pytest.raises(ValueError, match="without its CLIP"):
        vectors(tiny.prior(null_text="empty_caption"), tiny.text(), guidance_scale=2.0)
    vectors(tiny.prior(null_text="empty_caption"), tiny.text(), guidance_scale=1.0)


def test_scale_on_the_wire_is_the_texts_own(tiny):
    prior = tiny.prior()
    assert torch.allclose(vectors(prior, tiny.text(2, norm=1.0)).norm(dim=-1), torch.ones(2), atol=1e-5)
    assert (vectors(prior, tiny.text(2, norm=10.0)).norm(dim=-1) - 1).abs().min() > 1e-3


def test_the_scale_is_the_clips_and_no_accident_of_the_texts_given(tiny):
    prior, raw = tiny.prior(), tiny.text(2, norm=10.0)
    by_chance = replace(raw, embed=raw.embed * torch.tensor([[0.1], [1.0]]))  # the first has norm 1
    batch, alone = vectors(prior, by_chance, seed=3), vectors(prior, by_chance.take([0]), seed=3)
    assert torch.allclose(batch[:1], alone, atol=1e-5)
    unit = tiny.text(2, norm=1.0)
    rounded = replace(unit, embed=unit.embed * 0.995)
    assert torch.allclose(vectors(prior, rounded).norm(dim=-1), torch.ones(2), atol=1e-5)


def test_embedding_says_which_clip(tiny):
    result = tiny.prior().sample(tiny.text())
    assert (result.clip_id, result.modality) == (tiny.clip_id, "image")


def test_negative_texts_broadcast(tiny):
    prior, one, three = tiny.prior(), tiny.text(1), tiny.text(3, seed=9)
    options = {"candidates": 1, "guidance_scale": 2.0, "count": 2}
    got = vectors(prior, one, negative_text=three, seed=1, **options)
    assert got.shape[0] == 6
    for row in range(3):
        alone = vectors(prior, one, negative_text=three.take([row]), seed=1 + 2 * row, **options)
        assert torch.allclose(got[2 * row : 2 * row + 2], alone, atol=1e-5)


def test_a_start_is_noised_to_its_level_and_all_steps_are_kept(tiny):
    """Closed form of the start, at the first step that the network sees."""
    prior, text, start = tiny.prior(scaling="mean_std"), tiny.text(2), tiny.embed(2)
    network = prior.network.read()
    network.mean.copy_(torch.linspace(-1, 1, tiny.dim))
    network.std.copy_(torch.linspace(0.5, 2, tiny.dim))
    seen, step = [], network.step
    network.step = lambda x_t, *rest, **options: (seen.append(x_t), step(x_t, *rest, **options))[1]
    states = []
    options = {"guidance_scale": 1.0, "candidates": 2, "count": 2, "seed": 3}
    finish(prior.sample_steps(text, start_embed=start, strength=0.25, **options), states.append)
    assert [state.t for state in states] == [250, 167, 83, 0]  # round(0.25 * 999) down, the stack's own 4 steps
    level = Schedule(prior.config.schedule).alphas_cumprod[250]
    noise = torch.stack([ItemNoise(3, 4, "prior", candidate).draw((tiny.dim,)) for candidate in range(2)], dim=1)
    scaled = ((start.vector - network.mean) / network.std).repeat_interleave(2, 0)[:, None]  # row = text * 2 + count
    expected = level.sqrt() * scaled + (1 - level).sqrt() * noise
    assert torch.allclose(seen[0], expected.flatten(0, 1), atol=1e-5)


def test_at_strength_1_the_start_has_no_effect_and_without_a_start_the_strength(tiny):
    prior, text = tiny.prior(), tiny.text()
    plain = vectors(prior, text)
    with pytest.warns(UserWarning, match="at strength 1 it starts from pure noise, so start_embed has no effect"):
        assert torch.equal(vectors(prior, text, start_embed=tiny.embed(), strength=1.0), plain)
    with pytest.warns(UserWarning, match=r"without start_embed strength 0\.6 has no effect"):
        assert torch.equal(vectors(prior, text, strength=0.6), plain)
    by_default = vectors(prior, text, start_embed=tiny.embed())
    assert torch.equal(by_default, vectors(prior, text, start_embed=tiny.embed(), strength=0.3))
    assert not torch.allclose(by_default, plain, atol=1e-3)


@pytest.mark.parametrize("texts", [1, 3])
@pytest.mark.parametrize("starts", [1, 3])
@pytest.mark.parametrize("rows", [2, 9])
def test_starts_broadcast_as_captions_do(tiny, limit_rows, texts, starts, rows):
    prior, text, start = tiny.prior(), tiny.text(texts), tiny.embed(starts)
    limit_rows(rows)
    batch = vectors(prior, text, start_embed=start, count=2, seed=4)
    assert len(batch) == 2 * max(texts, starts)
    for item in range(len(batch)):
        own = replace(start, vector=start.vector[[item // 2 % starts]])
        alone = vectors(prior, text.take([item // 2 % texts]), start_embed=own, seed=4 + item)
        assert torch.allclose(batch[item : item + 1], alone, atol=1e-5), item


def test_a_one_pass_prior_makes_the_embedding_of_noise_in_one_forward(tiny):
    prior, text, states = tiny.prior(one_pass=True), tiny.text(2, norm=10.0), []
    network = prior.network.read()
    embed = finish(prior.sample_steps(text, candidates=2, count=2, seed=3), states.append)
    assert [(state.index, state.total) for state in states] == [(0, 1)] and network.calls == [(8, network.calls[0][1])]
    words = [part.repeat_interleave(2, 0) for part in (text.tokens, text.embed, text.mask)]
    with torch.no_grad():
        made = [
            network(ItemNoise(3, 4, "prior", candidate).draw((tiny.dim,)), torch.zeros(4), *words)
            for candidate in range(2)
        ]
    candidates = network.unscale(torch.stack(made, dim=1))
    expected = choose_closest(candidates, text, tiny.clip_id)
    assert torch.allclose(embed.vector, expected.vector, atol=1e-5)


def test_a_one_pass_prior_says_what_it_cannot_use(tiny):
    prior, text = tiny.prior(one_pass=True), tiny.text(1)
    plain = vectors(prior, text)
    with pytest.warns(UserWarning, match="in one pass, so sampler, steps and guidance_scale have no effect") as warned:
        assert vectors(prior, text, steps=9, guidance_scale=4.0, sampler="analytic_ddpm").equal(plain)
    assert len(warned) == 1
    options = {"negative_text": tiny.text(3), "start_embed": tiny.embed(3)}
    with pytest.warns(UserWarning, match="so negative_text and start_embed have no effect; leave it to the model"):
        assert vectors(prior, text, **options).equal(plain)
    with pytest.raises(ValueError, match="steps must be a whole number"):  # but a wrong value is wrong
        vectors(prior, text, steps=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 0.0}, r"Diffusion Prior: strength must be above 0 \(keep the start_embed\) and .* got 0.0"),
        ({"strength": 1.01}, "at most 1 .start from noise., got 1.01"),
        ({"strength": True}, "got True"),
        ({"steps": 0}, "Diffusion Prior: steps must be a whole number from 1 to 1000, got 0"),
        ({"steps": 1001}, "from 1 to 1000, got 1001"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number from 0 up .* got nan"),
        ({"guidance_scale": -1.0}, "got -1.0"),
        ({"candidates": 65}, "Diffusion Prior: candidates must be a whole number from 1 to 64, got 65"),
        ({"count": 10**9}, "count must be a whole number from 1 to 4096, got 1000000000"),
        ({"sampler": "euler"}, "sampler 'euler' is unknown; choose one of ddpm, ddim, dpmpp_2m"),
        ({"seed": "7"}, "seed must be a whole number, got '7'"),
    ],
)
def test_bad_values_are_refused_before_any_work(tiny, options, message):
    prior = tiny.prior()
    with pytest.raises(ValueError, match=message):
        prior.sample(tiny.text(), **options)
    assert not prior.network.loaded


def test_wrong_inputs_are_refused(tiny):
    prior = tiny.prior()
    with pytest.raises(ValueError, match=r"Diffusion Prior: this model was trained on tiny/test \(12-d\)"):
        prior.sample(tiny.text(clip_id="ViT-L-14/openai"))
    with pytest.raises(ValueError, match="16-d"):
        prior.sample(tiny.text(), negative_text=tiny.text(dim=16))
    with pytest.raises(ValueError, match="text must be a TextEncoding, got NoneType"):
        prior.sample(None)
    with pytest.raises(ValueError, match=r"batch sizes do not match \(text 3, negative_text 2\)"):
        prior.sample(tiny.text(3), negative_text=tiny.text(2))
    with pytest.raises(ValueError, match=r"batch sizes do not match \(text 3, start_embed 2\)"):
        prior.sample(tiny.text(3), start_embed=tiny.embed(2))
    with pytest.raises(ValueError, match=r"trained on tiny/test .* but got 16-d"):
        prior.sample(tiny.text(), start_embed=tiny.embed(dim=16))
    with pytest.raises(ValueError, match="start_embed must be an Embedding, got Tensor; link a prior"):
        prior.sample(tiny.text(), start_embed=torch.zeros(1, tiny.dim))
