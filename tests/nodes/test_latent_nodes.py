"""The nodes on a stack whose decoder paints latents: sizes, inversion, pictures to start from, hints, upsamplers."""

from dataclasses import replace

import pytest
import torch

from comfyui_unclip.unclip_core.models.build import build_network
from comfyui_unclip.unclip_core.runtime.placement import Placed
from comfyui_unclip.unclip_core.stages import Decoder


@pytest.fixture
def embed(latent_node):
    text = latent_node("UnCLIPTextEncode", text="a red star")
    return latent_node("UnCLIPDiffusionPrior", text=text)


def image(height=128, width=128, seed=0):
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))


def test_a_picture_is_painted_at_full_size_of_any_shape(latent_node, host, embed):
    plain = latent_node("UnCLIPDecoderSample", embed=embed)
    assert plain.shape == (1, 128, 128, 3) and host.warnings[-1] == () and host.runs[-1] == ("Decoder Sample", 3)
    assert latent_node("UnCLIPDecoderSample", embed=embed, width=192, height=64).shape == (1, 64, 192, 3)
    assert latent_node("UnCLIPDecoderSample", embed=embed, width=100).shape == (1, 128, 112, 3)
    assert "multiples of 16 pixels: 112 x 128 instead of 100 x 128" in host.warnings[-1][0]
    assert torch.equal(plain, latent_node("UnCLIPDecoderSample", embed=embed, width=128, height=128))


def test_a_pixel_decoder_refuses_another_size(node, embed):
    assert node("UnCLIPDecoderSample", width=64).shape == (1, 64, 64, 3)
    with pytest.raises(ValueError, match="Decoder Sample: this decoder paints 64 x 64 pixels and no other size"):
        node("UnCLIPDecoderSample", width=512, height=512)


def test_an_inverted_picture_has_its_size(latent_node, host, embed):
    noise = latent_node("UnCLIPDDIMInvert", image=image(), embed=embed, steps=4, width=192, height=64)
    assert noise.x_T.shape == (1, 4, 8, 24) and host.warnings[-1] == ()
    assert noise.inversion.pixel_error > 0 and noise.inversion.latent_error > 0
    assert latent_node("UnCLIPDecoderSample", embed=embed, noise=noise).shape == (1, 64, 192, 3)
    with pytest.raises(ValueError, match="do not go with the linked noise, which is one for 192 x 64 pixels"):
        latent_node("UnCLIPDecoderSample", embed=embed, noise=noise, width=128)


def test_a_masked_picture_is_kept_where_it_is_kept(latent_node, embed):
    mask = torch.zeros(1, 96, 128)
    mask[:, :, :64] = 1.0
    start = latent_node("UnCLIPStartFromPicture", image=image(96), mask=mask)
    painted = latent_node("UnCLIPDecoderSample", embed=embed, noise=start, width=128, height=96)
    assert torch.allclose(painted[:, :, 64:], image(96)[:, :, 64:], atol=1e-6)
    assert (painted - image(96))[:, :, :64].abs().mean() > 0.05


def test_a_caption_that_the_decoder_cannot_read_is_told(latent_node, host, embed):
    text = latent_node("UnCLIPTextEncode", text="a red star")
    latent_node("UnCLIPDecoderSample", embed=embed, text=text)
    assert len(host.warnings[-1]) == 1 and "this decoder reads no captions" in host.warnings[-1][0]


def test_upsamplers_pass_pictures_through(latent_node, host):
    for name in ("UnCLIPUpsample256", "UnCLIPUpsample1024"):
        assert torch.equal(latent_node(name, image=image()), image())
    said = [message for messages in host.warnings for message in messages]
    assert len(said) == 1 and "its upsamplers pass pictures through unchanged" in said[0]


def test_a_depth_hint_is_followed_and_refused_where_nothing_reads_it(latent_node, latent_stack, embed):
    plain = latent_stack["DECODER"]
    with pytest.raises(ValueError, match="Depth Hint: the decoder tiny-latent/decoder has no input for a hint"):
        latent_node("UnCLIPDepthHint", hint=image())
    unet = replace(plain.config.unet, in_channels=8)
    config = replace(plain.config, extra_input="hint", unet=unet, decoder_id="tiny-latent/depth")

    def build(dtype):
        torch.manual_seed(0)
        network = build_network("decoder", config).network
        for parameter in network.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
        return network

    placed = Placed(build, torch.device("cpu"), torch.float32)
    decoder = Decoder(config, placed, None, plain.autoencoder, plain.encode_null_image)
    wide = image(128, 256)
    hinted = {
        crop: latent_node("UnCLIPDepthHint", decoder=decoder, hint=wide, crop=crop) for crop in ("center", "squash")
    }
    pictures = [latent_node("UnCLIPDecoderSample", decoder=each, embed=embed) for each in hinted.values()]
    other = latent_node("UnCLIPDepthHint", decoder=decoder, hint=image(seed=1))
    pictures.append(latent_node("UnCLIPDecoderSample", decoder=other, embed=embed))
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(pictures, (*pictures[1:], pictures[0]), strict=True))
    with pytest.raises(ValueError, match="follows a depth picture, but got none; put Depth Hint"):
        latent_node("UnCLIPDecoderSample", decoder=decoder, embed=embed)
