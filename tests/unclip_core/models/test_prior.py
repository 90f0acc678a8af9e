"""The prior: the cached prefix is exact, causality and padding hold, scaling inverts, the learned null trains."""

from dataclasses import replace

import pytest
import torch

from comfyui_unclip.unclip_core.config import PriorConfig
from comfyui_unclip.unclip_core.models.prior import PriorNetwork
from comfyui_unclip.unclip_core.presets import STORYBOOK

TINY = PriorConfig(clip_dim=24, text_width=20, context_length=10, width=32, depth=3, heads=4)
CONSTANT = replace(TINY, scaling="constant", embed_scale=3.0, null_text="learned")


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(3, 24, generator=generator), torch.tensor([7, 400, 999])


def test_cached_prefix_equals_the_uncached_forward(prior_config, randomise, text, inputs):
    prior = randomise(PriorNetwork(prior_config))
    x_t, t = inputs
    words = text["tokens"], text["embed"], text["mask"]
    cache = prior.prefix(*words)
    for shift in (0, 1):  # one cache serves every step
        exact = prior(x_t + shift, t - shift, *words)
        torch.testing.assert_close(prior.step(x_t + shift, t - shift, cache), exact, atol=1e-5, rtol=1e-5)


def test_prefix_drops_columns_that_are_padding_in_every_row(randomise, text, inputs):
    prior = randomise(PriorNetwork(TINY))
    x_t, t = inputs
    rows = [0, 2]  # 3 and 1 real tokens
    words = text["tokens"][rows], text["embed"][rows], text["mask"][rows]
    cache = prior.prefix(*words)
    assert cache.blocks[0][0].shape == (2, 4, 3 + 1, 8)  # three text tokens and the text embedding
    torch.testing.assert_close(
        prior.step(x_t[rows], t[rows], cache), prior(x_t[rows], t[rows], *words), atol=1e-5, rtol=1e-5
    )


def test_cache_rows_by_index_and_slice(randomise, text, inputs):
    prior = randomise(PriorNetwork(TINY))
    cache = prior.prefix(text["tokens"], text["embed"], text["mask"])
    x_t = torch.randn(6, 24, generator=torch.Generator().manual_seed(4))
    t = torch.full((6,), 250)
    repeated = prior.step(x_t, t, cache.take(torch.arange(3).repeat_interleave(2)))
    for row in range(6):
        source = row // 2  # text-row-major
        alone = prior.step(x_t[row : row + 1], t[:1], cache.take(slice(source, source + 1)))
        torch.testing.assert_close(alone[0], repeated[row], atol=1e-5, rtol=1e-5)
    assert len(cache) == 3 and len(cache.take(slice(1, 3))) == 2


def test_precomputed_times_replace_t(randomise, text, inputs):
    prior = randomise(PriorNetwork(TINY))
    x_t, t = inputs
    cache = prior.prefix(text["tokens"], text["embed"], text["mask"])
    table = prior.time_features(torch.tensor([999, 500, 0]))
    exact = prior.step(x_t, torch.full((3,), 500), cache)
    torch.testing.assert_close(prior.step(x_t, t, cache, time=table[1:2]), exact, atol=1e-6, rtol=1e-5)


def test_padding_is_not_read(prior_config, randomise, text, inputs):
    prior = randomise(PriorNetwork(prior_config))
    exact = prior(*inputs, text["tokens"], text["embed"], text["mask"])
    noise = torch.where(text["mask"][..., None], text["tokens"], 50.0)
    torch.testing.assert_close(prior(*inputs, noise, text["embed"], text["mask"]), exact, atol=1e-5, rtol=1e-5)
    changed = text["tokens"].clone()
    changed[:, 0] += 1
    assert not torch.allclose(prior(*inputs, changed, text["embed"], text["mask"]), exact, atol=1e-3)


def test_a_caption_without_tokens_stays_finite(randomise, text, inputs):
    prior = randomise(PriorNetwork(TINY))
    nothing = torch.zeros_like(text["mask"])
    exact = prior(*inputs, text["tokens"], text["embed"], nothing)
    assert exact.isfinite().all()
    cached = prior.step(*inputs, prior.prefix(text["tokens"], text["embed"], nothing))
    torch.testing.assert_close(cached, exact, atol=1e-5, rtol=1e-5)


def test_shorter_captions_than_the_context(randomise, text, inputs):
    """CLIP's 77 tokens in the paper's context of 256: the same as padding up to it."""
    prior = randomise(PriorNetwork(TINY))
    exact = prior(*inputs, text["tokens"], text["embed"], text["mask"] & (torch.arange(10) < 4))
    short = prior(*inputs, text["tokens"][:, :4], text["embed"], text["mask"][:, :4])
    torch.testing.assert_close(short, exact, atol=1e-5, rtol=1e-5)


def test_scaling_inverts():
    z = torch.randn(5, 24)
    constant = PriorNetwork(CONSTANT)
    assert torch.equal(constant.scale(z), z * 3.0)
    table = PriorNetwork(TINY)
    table.mean.copy_(torch.randn(24))
    table.std.copy_(torch.rand(24) + 0.5)
    torch.testing.assert_close(table.scale(z), (z - table.mean) / table.std)
    for prior in (constant, table):
        exact = prior.unscale(z)
        torch.testing.assert_close(prior.scale(exact), z, atol=1e-5, rtol=1e-5)
        assert torch.equal(prior.to(torch.bfloat16).unscale(z), exact)


def test_storybook_scale_reaches_the_papers_variance():
    unit = torch.nn.functional.normalize(torch.randn(4000, 192), dim=-1)
    with torch.device("meta"):
        prior = PriorNetwork(STORYBOOK.prior)
    assert prior.scale(unit).std().item() == pytest.approx(0.5375, rel=0.01)


def test_learned_null_text_trains_and_is_used(randomise, inputs):
    prior = randomise(PriorNetwork(CONSTANT))
    tokens, embed, mask = prior.null_text(3)
    assert tokens.shape == (3, 10, 20) and embed.shape == (3, 24) and mask.sum(1).tolist() == [1, 1, 1]
    prior(*inputs, tokens, embed, mask).square().mean().backward()
    assert prior.null_token.grad.abs().sum() > 0 and prior.null_embed.grad.abs().sum() > 0


def test_errors_name_value_and_fix(text, inputs):
    prior = PriorNetwork(TINY)
    with pytest.raises(ValueError, match=r"up to 10 tokens of width 20, but got 10 of width 19.*encode with"):
        prior(*inputs, text["tokens"][..., :19], text["embed"], text["mask"])
    with pytest.raises(ValueError, match="no learned null text; encode the empty caption"):
        prior.null_text(1)
    with pytest.raises(ValueError, match="width 32 must be divisible by heads 5"):
        PriorNetwork(replace(TINY, heads=5))
