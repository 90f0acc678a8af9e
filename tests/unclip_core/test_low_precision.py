"""bfloat16, float16 and int8 on the weights that ship: close to float32's pictures, items apart, memory as estimated.

What rounding does to random weights says nothing about pictures, so none are used here.
"""

import pytest
import torch

from comfyui_unclip.unclip_core.checkpoints.catalog import EMBEDDED, read_stack
from comfyui_unclip.unclip_core.models.integers import IntegerConv2d, IntegerLinear, integer_bytes, why_no_integers
from comfyui_unclip.unclip_core.pictures.likeness import psnr
from comfyui_unclip.unclip_core.runtime.estimates import prior_row_bytes, unet_row_bytes
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.types import Embedding

# One object each: where two meet, a rounding error may decide which stands in front, and that is no error of precision.
NO_INTEGERS = why_no_integers(torch.device("cpu"))
INT8 = pytest.param("int8", marks=pytest.mark.skipif(NO_INTEGERS != "", reason=f"int8 {NO_INTEGERS}"))
CAPTIONS = ["a big red apple on a night sky", "a small blue star in the snow", "a big yellow fish in the snow"]


@pytest.fixture(scope="module")
def stacks():
    """stacks[dtype], opened once."""
    entry = read_stack(EMBEDDED / "storybook")
    dtypes = ("fp32", "bf16", "fp16") if NO_INTEGERS else ("fp32", "bf16", "fp16", "int8")
    return {dtype: load_stack(entry, dtype, "cpu") for dtype in dtypes}


@pytest.fixture(scope="module")
def text(stacks):
    return stacks["fp32"].clip.encode_text(CAPTIONS)


@pytest.fixture(scope="module")
def exact(stacks, text):
    """Embeddings, pictures and enlarged pictures in float32."""
    return paint(stacks["fp32"], text)


def paint(stack, text, given=None):
    """Every stage from the inputs that `given`, an earlier result, had; None: from its own."""
    embed = stack.prior.sample(text, steps=6, seed=3)
    start = embed if given is None else given[0]
    small = stack.decoder.sample(start, text, steps=8, seed=4)
    start = small if given is None else given[1]
    return embed, small, stack.upsampler_256.sample(start[:1], steps=3, seed=5)


@pytest.mark.parametrize(("dtype", "rows", "least"), [("bf16", 3, 47.0), ("fp16", 1, 58.0)])  # float16 is slow here
def test_pictures_are_those_of_float32(stacks, text, exact, dtype, rows, least):
    """One 8-bit level is 48 dB: bfloat16 strays about one from float32's picture, float16 a fraction of one.

    Two bits fewer than bfloat16 has give 44 and 48 dB instead of 51 and 62.
    """
    vector = exact[0].vector[:rows]
    given = Embedding(vector, exact[0].clip_id), exact[1][:rows]
    embed, small, large = paint(stacks[dtype], text.take(list(range(rows))), given)
    found = psnr(small, given[1]), psnr(large, exact[2])
    assert torch.cosine_similarity(embed.vector, vector).min() > 0.999
    assert found[0] > least and found[1] > least + 8, found


def test_an_item_is_a_batch_of_one_in_bfloat16(stacks, text, exact):
    """Batches of another size may sum in another order, so within rounding."""
    stack, (embed, small, large) = stacks["bf16"], paint(stacks["bf16"], text, exact)
    image = torch.cat([exact[1][:1], exact[1][1:2]])
    several = stack.upsampler_256.sample(image, steps=3, seed=5)
    assert psnr(several[:1], large) > 55
    for item in range(len(CAPTIONS)):
        words = text.take([item])
        alone = stack.prior.sample(words, steps=6, seed=3 + item)
        assert torch.cosine_similarity(alone.vector, embed.vector[item : item + 1]).min() > 0.9999
        start = Embedding(exact[0].vector[item : item + 1], exact[0].clip_id)
        alone = stack.decoder.sample(start, words, steps=8, seed=4 + item)
        assert psnr(alone, small[item : item + 1]) > 44
        if item < len(image):
            alone = stack.upsampler_256.sample(image[item : item + 1], steps=3, seed=5 + item)
            assert psnr(alone, several[item : item + 1]) > 55


@pytest.mark.parametrize("dtype", [INT8])
def test_pictures_in_integers_are_those_of_float32(stacks, text, exact, dtype):
    """Half a bit fewer in all levels costs 3 dB; skip connections in integers too, 7."""
    embed, small, large = paint(stacks[dtype], text, exact)
    assert torch.cosine_similarity(embed.vector, exact[0].vector).min() > 0.999
    found = [psnr(one[None], other[None]) for one, other in zip(small, exact[1], strict=True)]
    assert 38 < sum(found) / len(found) < 70 and min(found) > 36, found  # and not because nothing was rounded
    assert 50 < psnr(large, exact[2]) < 80


@pytest.mark.parametrize("dtype", [INT8])
def test_what_is_in_integers_and_what_is_not(stacks, text, exact, dtype):
    stack, plain = stacks[dtype], stacks["fp32"]
    for stage in ("prior", "decoder", "upsampler_256", "upsampler_1024"):
        placed, before = getattr(stack, stage).network, getattr(plain, stage).network.unpacked().read()
        network = placed.read()
        layers = {
            name: layer for name, layer in network.named_modules() if isinstance(layer, IntegerConv2d | IntegerLinear)
        }
        assert layers and placed.weights == torch.int8 and placed.dtype == torch.float32
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        doubled = any(getattr(layer, "doubled", None) for layer in layers.values())
        rounded = sum(before.get_submodule(name).weight.numel() for name in layers)
        assert doubled or integer_bytes(network) == rounded
        if stage in ("prior", "decoder"):  # upsamplers have few channels
            numbers = sum(parameter.numel() for parameter in before.parameters())
            assert integer_bytes(network) > 0.8 * numbers and placed._bytes < 0.6 * 4 * numbers
        # What must be exact has the file's own weights.
        for exactly in (placed.as_float32(), placed.unpacked()):
            twin = exactly.read()
            assert not any(isinstance(layer, IntegerConv2d | IntegerLinear) for layer in twin.modules())
            assert {parameter.dtype for parameter in twin.parameters()} == {torch.float32}
    assert stack.ar_prior.network.weights != torch.int8 and stack.clip.placed.dtype == torch.float32


@pytest.mark.parametrize("dtype", [INT8])
def test_an_inversion_is_exact_beside_integers(stacks, text, exact, dtype):
    picture, embed = exact[1][:1], Embedding(exact[0].vector[:1], exact[0].clip_id)
    found = []
    for stack in (stacks["fp32"], stacks[dtype]):
        noise = stack.decoder.invert(picture, embed, text.take([0]), steps=4, refine=0)
        found += [noise.x_T, stack.decoder.sample(embed, text.take([0]), noise=noise)]
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_estimates_are_above_what_a_step_takes_and_not_far(stacks, text, dtype, peak_bytes):
    stack, rows, t = stacks[dtype], len(CAPTIONS), torch.tensor([5])
    decoder, upsampler, prior = stack.decoder, stack.upsampler_256, stack.prior
    networks = {stage: getattr(stack, stage).network.read() for stage in ("decoder", "upsampler_256", "prior")}
    with torch.no_grad():
        words = (text.tokens, text.mask, text.embed, text.ids)
        conditioning = networks["decoder"].condition(torch.randn(rows, decoder.config.clip_dim), *words)
    weights = decoder.network.dtype

    def step_of_prior():
        cache = networks["prior"].prefix(text.tokens, text.embed, text.mask)
        networks["prior"].step(torch.randn(rows, prior.config.clip_dim), t, cache)

    def step_of_decoder():
        networks["decoder"](torch.randn(rows, 3, 64, 64), t, conditioning)

    def step_of_upsampler():
        networks["upsampler_256"](torch.randn(rows, 3, 256, 256), t, torch.randn(rows, 3, 256, 256).to(weights))

    for run, estimate, at_most in (
        (step_of_decoder, unet_row_bytes(decoder.config.unet, 64, 64, weights.itemsize), 3),
        (step_of_upsampler, unet_row_bytes(upsampler.config.unet, 256, 256, weights.itemsize), 3),
        (step_of_prior, prior_row_bytes(prior.config, weights.itemsize), 10),
    ):
        with torch.no_grad():
            peak = peak_bytes(run)
        assert peak <= rows * estimate <= at_most * peak, (run.__name__, peak, rows * estimate)
