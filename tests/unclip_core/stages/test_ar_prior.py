"""The autoregressive prior stage: seeds, order, candidates, guidance, temperature, the upper half of z_i . z_t."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from comfyui_unclip.unclip_core.diffusion.noise import ItemNoise
from comfyui_unclip.unclip_core.stages import ar_prior as stage_ar_prior
from comfyui_unclip.unclip_core.stages import finish
from comfyui_unclip.unclip_core.stages.ar_prior import draw_bucket

COMPONENTS = 5


@pytest.fixture
def prior(make_ar_prior):
    return make_ar_prior()


def vectors(prior, text, **options):
    return prior.sample(text, **options).vector


def test_item_equals_a_batch_of_one_text_row_major(tiny, prior):
    text = tiny.text(3)
    batch = vectors(prior, text, count=2, seed=10)
    assert batch.shape == (6, tiny.dim) and batch.dtype == torch.float32
    for item in range(6):
        alone = vectors(prior, text.take([item // 2]), seed=10 + item)
        assert torch.allclose(batch[item : item + 1], alone, atol=1e-5), item
    assert torch.cdist(batch, batch).fill_diagonal_(9).min() > 1e-3


@pytest.mark.parametrize("negative", [0, 1, 3])
@pytest.mark.parametrize("rows", [1, 4])
def test_chunks_change_nothing_and_steps_are_numbered_through(tiny, prior, monkeypatch, rows, negative):
    text, options = tiny.text(3), {"count": 3, "candidates": 2, "seed": 4, "guidance_scale": 2.0}
    if negative:
        options["negative_text"] = tiny.text(negative, seed=8)
    whole = vectors(prior, text, **options)
    monkeypatch.setattr(stage_ar_prior, "rows_that_fit", lambda *_: rows)
    states = []
    split = finish(prior.sample_steps(text, **options), states.append).vector
    assert torch.allclose(whole, split, atol=1e-5)
    total = -(-9 // rows) * (COMPONENTS + 1)
    assert [state.index for state in states] == list(range(total)) and {state.total for state in states} == {total}


def test_equals_sampling_by_hand(tiny, prior):
    """Guidance, dot, buckets and decoding, against the plain forward of the whole sequence."""
    text, network = tiny.text(2), prior.network.read()
    uniform = torch.special.ndtr(ItemNoise(6, 2, "ar_prior").draw((COMPONENTS + 1,)))
    words = {"tokens": text.tokens, "embed": text.embed, "mask": text.mask}
    null = torch.ones(2, dtype=torch.bool)
    codes = torch.zeros(2, COMPONENTS, dtype=torch.int64)
    with torch.no_grad():
        dot_logits, _ = network(**words, dot=codes[:, 0], codes=codes)
        chances = dot_logits.softmax(-1).cumsum(-1)
        dot = (chances < 0.25 + 0.75 * uniform[:, :1]).sum(-1)  # above the 25th percentile
        for place in range(COMPONENTS):
            _, conditional = network(**words, dot=dot, codes=codes)
            _, unconditional = network(**words, dot=dot, codes=codes, drop=null)
            logits = (unconditional + 3.0 * (conditional - unconditional))[:, place] / 0.7
            codes[:, place] = (logits.softmax(-1).cumsum(-1) < uniform[:, place + 1, None]).sum(-1)
        expected = F.normalize(network.quantiser.decode(codes), dim=-1)
    got = vectors(prior, text, guidance_scale=3.0, temperature=0.7, dot_percentile=25.0, seed=6)
    assert torch.allclose(got, expected, atol=1e-5)


def test_progress_is_the_embedding_so_far(tiny, prior):
    states = []
    result = finish(prior.sample_steps(tiny.text(2), seed=1), states.append).vector
    assert len(states) == COMPONENTS + 1 and states[0].x0.shape == (2, tiny.dim)
    assert torch.allclose(states[0].x0, prior.network.read().quantiser.mean.expand(2, -1))
    assert torch.allclose(F.normalize(states[-1].x0, dim=-1), result, atol=1e-6)
    assert all((b.x0 - a.x0).norm() > 1e-4 for a, b in pairwise(states))


def test_cancelling_between_codes_stops_at_once(tiny, prior):
    class Cancelled(Exception):
        pass

    seen = []

    def cancel(state):
        seen.append(state.index)
        if state.index == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        finish(prior.sample_steps(tiny.text()), cancel)
    assert seen == [0, 1, 2]


def test_candidates_keep_the_closest(tiny, prior):
    text = tiny.text(1)
    scores = [F.cosine_similarity(vectors(prior, text, candidates=n, seed=3), text.embed).item() for n in (1, 2, 4, 8)]
    assert all(more >= fewer - 1e-6 for fewer, more in pairwise(scores)) and scores[-1] > scores[0] + 1e-3


def test_no_temperature_takes_the_likeliest_whatever_the_seed(tiny, prior):
    text = tiny.text(2)
    cold = [vectors(prior, text, temperature=0.0, dot_percentile=0.0, seed=seed) for seed in (1, 2)]
    assert torch.equal(*cold)
    warm = [vectors(prior, text, temperature=1.0, seed=seed) for seed in (1, 2)]
    assert not torch.allclose(*warm, atol=1e-3)


def test_guidance_zero_ignores_the_codes_caption_and_one_ignores_the_negative(tiny, prior):
    other, options = tiny.text(1, seed=77), {"seed": 2, "candidates": 1}
    with pytest.warns(UserWarning, match="Prior: at guidance_scale 1 negative_text has no effect") as warned:
        one = [vectors(prior, tiny.text(), guidance_scale=1.0, negative_text=n, **options) for n in (None, other)]
    assert torch.equal(*one) and len(warned) == 1
    two = [vectors(prior, tiny.text(), guidance_scale=2.5, negative_text=n, **options) for n in (None, other)]
    assert not torch.allclose(*two, atol=1e-3)
    same = vectors(prior, tiny.text(), guidance_scale=2.5, negative_text=tiny.text(), **options)
    assert torch.allclose(same, one[0], atol=1e-5)  # steering away from itself: the conditional model


def test_negative_texts_broadcast(tiny, prior):
    one, three = tiny.text(1), tiny.text(3, seed=9)
    options = {"guidance_scale": 2.0, "count": 2}
    got = vectors(prior, one, negative_text=three, seed=1, **options)
    for row in range(3):
        alone = vectors(prior, one, negative_text=three.take([row]), seed=1 + 2 * row, **options)
        assert torch.allclose(got[2 * row : 2 * row + 2], alone, atol=1e-5)


def test_embedding_has_the_texts_scale_and_clip(tiny, prior):
    result = prior.sample(tiny.text(2))
    assert (result.clip_id, result.modality) == (tiny.clip_id, "image")
    assert torch.allclose(result.vector.norm(dim=-1), torch.ones(2), atol=1e-5)
    assert (vectors(prior, tiny.text(2, norm=10.0)).norm(dim=-1) - 1).abs().min() > 1e-3


def test_draws_follow_the_distribution():
    chances = torch.tensor([0.1, 0.0, 0.4, 0.3, 0.2])
    logits = chances.clamp(min=1e-12).log().expand(20000, -1)
    uniform = torch.rand(20000, generator=torch.Generator().manual_seed(0))

    def shares(**options):
        return torch.bincount(draw_bucket(logits, uniform, **options), minlength=5) / 20000

    assert torch.allclose(shares(temperature=1.0), chances, atol=0.01)
    sharp = chances.square() / chances.square().sum()
    assert torch.allclose(shares(temperature=0.5), sharp, atol=0.01)
    upper = torch.tensor([0.0, 0.0, 0.0, 0.6, 0.4])
    assert torch.allclose(shares(temperature=1.0, floor=0.5), upper, atol=0.01)
    assert shares(temperature=0.0)[2] == 1.0 and shares(temperature=0.0, floor=0.6)[3] == 1.0
    ends = draw_bucket(logits[:2], torch.tensor([0.0, 1.0]), 1.0)
    assert ends.tolist() == [0, 4]


def test_the_upper_half_raises_z_i_z_t(tiny, prior):
    """The dot percentile reaches the sequence: the bucket drawn is never below its share of the distribution."""
    seen = []
    network, step = prior.network.read(), prior.network.read().step

    def watch(bucket, cache):
        if cache.position == 1:
            seen.append(bucket.clone())
        return step(bucket, cache)

    network.step = watch
    text = tiny.text(1)
    for percentile in (0.0, 50.0, 95.0):
        vectors(prior, text, count=64, dot_percentile=percentile, seed=5)
    with torch.no_grad():
        logits, _ = network.prefix(text.tokens, text.embed, text.mask)
    reached = logits[0].softmax(-1).cumsum(-1)
    for buckets, percentile in zip(seen, (0.0, 50.0, 95.0), strict=True):
        assert (reached[buckets] >= percentile / 100 - 1e-6).all()
    means = [buckets.float().mean() for buckets in seen]
    assert means[0] < means[1] < means[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_scale": -1.0}, "Autoregressive Prior: guidance_scale must be a number from 0 up .* got -1.0"),
        ({"temperature": -0.1}, "temperature must be a number from 0 to 10, got -0.1"),
        ({"temperature": float("nan")}, "temperature must be a number from 0 to 10, got nan"),
        ({"dot_percentile": 100}, "dot_percentile must be a number from 0 to 99.9, got 100"),
        ({"dot_percentile": "50"}, "got '50'"),
        ({"candidates": 0}, "candidates must be a whole number from 1 to 64, got 0"),
        ({"count": 1.5}, "count must be a whole number from 1 to 4096, got 1.5"),
        ({"seed": "7"}, "seed must be a whole number, got '7'"),
    ],
)
def test_bad_values_are_refused_before_any_work(tiny, prior, options, message):
    with pytest.raises(ValueError, match=message):
        prior.sample(tiny.text(), **options)
    assert not prior.network.loaded


def test_wrong_inputs_are_refused(tiny, prior):
    with pytest.raises(ValueError, match=r"Autoregressive Prior: this model was trained on tiny/test \(12-d\)"):
        prior.sample(tiny.text(clip_id="ViT-L-14/openai"))
    with pytest.raises(ValueError, match="text must be a TextEncoding, got NoneType"):
        prior.sample(None)
    with pytest.raises(ValueError, match=r"batch sizes do not match \(text 3, negative_text 2\)"):
        prior.sample(tiny.text(3), negative_text=tiny.text(2))


def test_damaged_weights_are_noticed_at_the_first_code(tiny, make_ar_prior):
    with pytest.raises(FloatingPointError, match=r"Autoregressive Prior: NaN or infinity at step 2 of 6"):
        vectors(make_ar_prior(damage=True), tiny.text())
