"""The decoder's conditioning: computed once, nulls per row, padding masked, tokens in Karlo's order."""

from dataclasses import replace

import pytest
import torch

from comfyui_unclip.unclip_core.config import DecoderConfig, TextEncoderConfig, UNetConfig
from comfyui_unclip.unclip_core.models.decoder import DecoderNetwork

UNET = UNetConfig(16, 3, 6, 16, (1, 2), 1, (8,), 8, 24, norm_groups=8)
KARLO_LIKE = DecoderConfig(clip_dim=24, text_width=20, extra_tokens=2, unet=UNET)
LEARNED = replace(KARLO_LIKE, null_text="learned", embed_scale=2.0)
ENCODER = TextEncoderConfig(vocabulary_size=50, context_length=10, width=24, depth=2, heads=3)
PAPER_LIKE = replace(LEARNED, text_encoder=ENCODER, null_embed="zero")
ALL, NONE = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(5)
    return {
        "x": torch.randn(3, 3, 16, 16, generator=generator),
        "t": torch.tensor([1, 480, 999]),
        "embed": torch.randn(3, 24, generator=generator),
    }


@pytest.fixture
def condition(text):
    def apply(decoder, embed, **options):
        return decoder.condition(embed, text["tokens"], text["mask"], text["embed"], text["ids"], **options)

    return apply


def close(a, b):
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [LEARNED, PAPER_LIKE], ids=["projection", "text-encoder"])
def test_dropped_rows_equal_the_null_calls(config, randomise, inputs, condition):
    decoder = randomise(DecoderNetwork(config))
    x, t, embed = inputs.values()
    drop_embed, drop_text = torch.tensor([True, False, True]), torch.tensor([True, True, False])
    mixed = decoder(x, t, condition(decoder, embed, drop_embed=drop_embed, drop_text=drop_text))
    nothing = decoder(x, t, decoder.condition(None, batch=3))
    image_only = decoder(x, t, decoder.condition(embed))
    text_only = decoder(x, t, condition(decoder, None))
    close(mixed[0], nothing[0])
    close(mixed[1], image_only[1])
    close(mixed[2], text_only[2])
    full = decoder(x, t, condition(decoder, embed, drop_embed=NONE, drop_text=NONE))
    close(full, decoder(x, t, condition(decoder, embed)))
    for other in (nothing, image_only, text_only):
        assert (full - other).abs().max() > 0.05


@pytest.mark.parametrize("config", [LEARNED, PAPER_LIKE, KARLO_LIKE], ids=["learned", "paper", "karlo"])
def test_nulls_train(config, randomise, inputs, condition):
    decoder = randomise(DecoderNetwork(config)).train()
    x, t, embed = inputs.values()
    drops = {"drop_embed": ALL} if config is KARLO_LIKE else {"drop_embed": ALL, "drop_text": ALL}
    decoder(x, t, condition(decoder, embed, **drops)).square().mean().backward()
    nulls = [p for name, p in decoder.named_parameters() if name.startswith("null_")]
    assert nulls and all(p.grad.abs().sum() > 0 for p in nulls)


def test_zero_null_is_the_papers_zero_vector(randomise, inputs, condition):
    decoder = randomise(DecoderNetwork(PAPER_LIKE))
    x, t, _ = inputs.values()
    close(decoder(x, t, condition(decoder, None)), decoder(x, t, condition(decoder, torch.zeros(3, 24))))


def test_conditioning_once_equals_each_step(randomise, inputs, condition):
    decoder = randomise(DecoderNetwork(KARLO_LIKE))
    x, t, embed = inputs.values()
    cached = condition(decoder, embed)
    for step in range(3):
        x = decoder(x, t - step, cached)[:, :3]
    again = inputs["x"]
    for step in range(3):
        again = decoder(again, t - step, condition(decoder, embed))[:, :3]
    close(x, again)


def test_precomputed_times_replace_t(randomise, inputs, condition):
    decoder = randomise(DecoderNetwork(KARLO_LIKE))
    x, t, embed = inputs.values()
    conditioning = condition(decoder, embed)
    table = decoder.time_features(torch.tensor([999, 480, 1]))
    close(decoder(x, t, conditioning, time=table[1:2]), decoder(x, torch.full((3,), 480), conditioning))


def test_padding_is_not_read(randomise, inputs, text):
    decoder = randomise(DecoderNetwork(KARLO_LIKE))
    x, t, embed = inputs.values()

    def paint(tokens):
        return decoder(x, t, decoder.condition(embed, tokens, text["mask"], text["embed"]))

    exact = paint(text["tokens"])
    close(paint(torch.where(text["mask"][..., None], text["tokens"], 50.0)), exact)
    assert not torch.allclose(paint(text["tokens"] + 1), exact, atol=1e-3)


def test_text_encoder_reads_ids_and_not_padding(randomise, inputs, text):
    decoder = randomise(DecoderNetwork(PAPER_LIKE))
    x, t, embed = inputs.values()

    def paint(ids):
        return decoder(x, t, decoder.condition(embed, None, text["mask"], None, ids))

    exact = paint(text["ids"])
    close(paint(torch.where(text["mask"], text["ids"], 7)), exact)
    assert not torch.allclose(paint((text["ids"] + 1) % 50), exact, atol=1e-3)


def test_extra_tokens_come_first_and_are_feature_major(randomise, inputs, condition):
    decoder = randomise(DecoderNetwork(KARLO_LIKE))
    seen = []
    decoder.unet.project_context = lambda tokens: seen.append(tokens) or ()
    conditioning = condition(decoder, inputs["embed"])
    flat = decoder.embed_to_tokens(inputs["embed"])  # (3, 24 * 2)
    close(seen[0][:, 0], flat[:, 0::2])
    close(seen[0][:, 1], flat[:, 1::2])
    assert seen[0].shape == (3, 2 + 10, 24)
    assert conditioning.mask.sum(1).tolist() == [2 + 3, 2 + 10, 2 + 1]


def test_errors_name_value_and_fix(inputs, condition, text):
    karlo = DecoderNetwork(KARLO_LIKE)
    with pytest.raises(ValueError, match="trained on 24-d embeddings of ViT-L-14/openai, but got 30-d; encode with"):
        condition(karlo, torch.randn(3, 30))
    for refused in ({"drop_text": ALL}, None):
        with pytest.raises(ValueError, match="no learned null text; pass the encoded empty caption"):
            condition(karlo, inputs["embed"], **refused) if refused else karlo.condition(inputs["embed"])
    with pytest.raises(ValueError, match="say the batch size"):
        DecoderNetwork(LEARNED).condition(None)
    with pytest.raises(ValueError, match="context_width 24 must be the text encoder's width 48"):
        DecoderNetwork(replace(PAPER_LIKE, text_encoder=replace(ENCODER, width=48)))
    with pytest.raises(ValueError, match="reads at most 10"):
        DecoderNetwork(PAPER_LIKE).condition(
            None, None, torch.ones(1, 11) > 0, None, torch.zeros(1, 11, dtype=torch.int64)
        )
