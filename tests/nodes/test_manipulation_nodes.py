"""The nodes that take pictures apart and move in either part: every input does something, and bad ones are refused."""

import pytest
import torch
import torch.nn.functional as F

from comfyui_unclip.unclip_core.pictures.likeness import psnr
from comfyui_unclip.unclip_core.types import Embedding


def image(rows=1, height=64, width=64, seed=0):
    return torch.rand(rows, height, width, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def embed(node):
    return node("UnCLIPImageEncode", image=image())


@pytest.fixture
def noise(node, embed):
    return node("UnCLIPDDIMInvert", image=image(), embed=embed, steps=4)


def test_a_picture_is_encoded_in_its_crop(node, embed):
    assert embed.vector.shape == (1, 24) and embed.modality == "image"
    assert embed.vector.norm().item() == pytest.approx(1.0, abs=1e-5)
    wide = image(2, 64, 96)
    center, squash = (node("UnCLIPImageEncode", image=wide, crop=crop).vector for crop in ("center", "squash"))
    assert len(center) == 2 and (center - squash).abs().max() > 1e-3


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 3), (1, 1, 1, 4), (2, 90, 70, 4), (1, 20, 30, 1), (1, 8000, 50, 3)], ids=str
)
def test_any_picture_goes_in(node, shape):
    picture = torch.rand(*shape)
    for crop in ("center", "squash"):
        embed = node("UnCLIPImageEncode", image=picture, crop=crop)
        noise = node("UnCLIPDDIMInvert", image=picture, embed=embed, steps=2, refine=0, crop=crop)
        assert len(embed) == len(noise) == shape[0]
        assert torch.isfinite(embed.vector).all() and torch.isfinite(noise.x_T).all()


def test_a_picture_taken_apart_is_put_together_again(node, embed):
    noise = node("UnCLIPDDIMInvert", image=image(), embed=embed, steps=20, refine=10)
    back = node("UnCLIPDecoderSample", embed=embed, noise=noise, steps=20)
    assert psnr(back, image()) > 35
    varied = node("UnCLIPDecoderSample", embed=embed, noise=noise, sampler="ddim", eta=1.0)
    assert psnr(varied, image()) < 30


@pytest.mark.parametrize("changes", [{"steps": 5}, {"guidance_scale": 2.0}, {"refine": 0}, {"embed": None}], ids=str)
def test_each_input_of_the_inversion_matters(node, embed, noise, changes):
    given = {"image": image(), "embed": embed, "steps": 4, **changes}
    other = node("UnCLIPDDIMInvert", **given)
    assert (other.x_T - noise.x_T).abs().max() > 1e-4


def test_text_and_crop_matter_to_the_inversion(node):
    wide, text = image(width=96), node("UnCLIPTextEncode", text="a red star")
    plain = node("UnCLIPDDIMInvert", image=wide, steps=3).x_T
    assert (node("UnCLIPDDIMInvert", image=wide, steps=3, crop="squash").x_T - plain).abs().max() > 1e-2
    assert (node("UnCLIPDDIMInvert", image=wide, steps=3, text=text).x_T - plain).abs().max() > 1e-4


def test_decoding_in_other_steps_is_refused_and_other_guidance_is_told(node, host, embed, noise):
    with pytest.raises(ValueError, match="Decoder Sample: this x_T was inverted in 4 steps, but is to be decoded in 9"):
        node("UnCLIPDecoderSample", embed=embed, noise=noise, steps=9)
    node("UnCLIPDecoderSample", embed=embed, noise=noise)
    assert host.warnings[-1] == ()
    node("UnCLIPDecoderSample", embed=embed, noise=noise, guidance_scale=2.0)
    assert "inverted at guidance_scale 1, but is decoded at 2" in host.warnings[-1][0]


def test_random_noise_is_what_the_decoder_draws(node, embed):
    both = Embedding(embed.vector.expand(2, -1), embed.clip_id)
    noise = node("UnCLIPRandomNoise", seed=5, count=2)
    options = {"embed": both, "sampler": "ddim"}
    drawn = node("UnCLIPDecoderSample", **options, noise=noise)
    assert torch.allclose(drawn, node("UnCLIPDecoderSample", **options, seed=5), atol=1e-5)
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3
    shared = node("UnCLIPDecoderSample", **options, noise=node("UnCLIPRandomNoise", seed=5, count=2, shared=True))
    assert torch.allclose(shared[0], drawn[0], atol=1e-5) and torch.allclose(shared[1], drawn[0], atol=1e-5)


def test_slerp_goes_from_one_to_the_other(node, embed, noise):
    other = node("UnCLIPImageEncode", image=image(seed=1))
    way = node("UnCLIPSlerpEmbedding", embed_a=embed, embed_b=other, frames=3)
    assert torch.allclose(way.vector[[0, 2]], torch.cat([embed.vector, other.vector]), atol=1e-5)
    assert torch.allclose(way.vector[1], F.normalize(embed.vector + other.vector, dim=1)[0], atol=1e-5)
    part = node("UnCLIPSlerpEmbedding", embed_a=embed, embed_b=other, start=0.25, end=0.5, frames=2)
    assert torch.allclose(part.vector[1], way.vector[1], atol=1e-5) and len(part) == 2
    noises = node("UnCLIPSlerpNoise", noise_a=noise, noise_b=node("UnCLIPRandomNoise", seed=1), frames=3)
    assert torch.allclose(noises.x_T[0], noise.x_T[0], atol=1e-4) and noises.inversion is not None
    assert node("UnCLIPDecoderSample", embed=way, noise=noises).shape == (3, 64, 64, 3)


def test_text_diff_moves_toward_the_second_caption(node, embed):
    before, after = (node("UnCLIPTextEncode", text=f"a {colour} star") for colour in ("red", "blue"))
    turned = node("UnCLIPTextDiff", embed=embed, text_from=before, text_to=after, end_theta=0.4, frames=4)
    closeness = turned.vector @ (after.embed - before.embed)[0]
    assert torch.allclose(turned.vector[0], embed.vector[0], atol=1e-5) and (closeness.diff() > 0).all()
    text = node("UnCLIPTextAsEmbedding", text=after)
    assert torch.equal(text.vector, after.embed) and text.modality == "text"


def test_antipodes_are_told(node, host, embed):
    node("UnCLIPSlerpEmbedding", embed_a=embed, embed_b=Embedding(-embed.vector, embed.clip_id))
    assert "opposite directions" in host.warnings[-1][0]


@pytest.fixture
def from_picture(node, embed):
    """from_picture(image, **inputs of Start From Picture) -> what Decoder Sample paints."""

    def paint(picture, **inputs):
        return node("UnCLIPDecoderSample", embed=embed, noise=node("UnCLIPStartFromPicture", image=picture, **inputs))

    return paint


def test_a_picture_is_painted_over(from_picture, node):
    picture = image()
    little, much = (from_picture(picture, strength=strength) for strength in (0.2, 0.8))
    assert psnr(little, picture) > psnr(much, picture) + 1
    other = from_picture(picture, strength=0.8, noise=node("UnCLIPRandomNoise", seed=7))
    assert (other - much).abs().max() > 1e-3
    wide = image(width=96)
    cut, squashed = (from_picture(wide, strength=0.1, crop=crop) for crop in ("center", "squash"))
    assert (cut - squashed).abs().max() > 0.05


def test_a_part_is_repainted_and_the_rest_kept(from_picture, noise):
    picture, mask = image(), torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1.0
    for given in (None, noise):  # also over the picture's own inverted noise
        change = from_picture(picture, mask=mask, **({} if given is None else {"noise": given})) - picture
        assert change[:, :, 32:].abs().max() < 1 / 255 < change[:, :, :32].abs().mean()


def test_a_decoder_guided_by_clip_is_another_decoder_of_the_same_weights(node, embed, stack):
    plain = node("UnCLIPDecoderSample", embed=embed)
    guided = node("UnCLIPCLIPGuidance", scale=10.0)
    assert guided is not stack["DECODER"] and guided.network is stack["DECODER"].network
    assert (node("UnCLIPDecoderSample", embed=embed, decoder=guided) - plain).abs().max() > 1e-3
    assert torch.equal(node("UnCLIPDecoderSample", embed=embed), plain)  # the other branch of the graph
    unchanged = node("UnCLIPCLIPGuidance", scale=0.0)
    assert torch.equal(node("UnCLIPDecoderSample", embed=embed, decoder=unchanged), plain)
