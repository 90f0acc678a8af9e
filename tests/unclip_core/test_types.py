"""What travels on the wires: batches, channels, and the refusal of another CLIP's vectors."""

import pytest
import torch

from comfyui_unclip.unclip_core.embeddings import draw_x_T
from comfyui_unclip.unclip_core.presets import STORYBOOK
from comfyui_unclip.unclip_core.types import (
    Embedding,
    GivenNoise,
    JoinedNoise,
    PictureStart,
    RandomNoise,
    SlerpedNoise,
    TextEncoding,
    broadcast_batch,
    check_same_clip,
    expand_rows,
    image_to_model,
    model_to_image,
)


def encoding(rows):
    numbers = torch.arange(rows, dtype=torch.float32)
    return TextEncoding(
        tokens=numbers.view(-1, 1, 1).expand(rows, 5, 4),
        embed=numbers.view(-1, 1).expand(rows, 3),
        mask=torch.ones(rows, 5, dtype=torch.bool),
        ids=torch.arange(rows).view(-1, 1).expand(rows, 5),
        clip_id="tiny",
        captions=tuple(f"caption {i}" for i in range(rows)),
    )


@pytest.mark.parametrize("captions", [(), ("a", "b", "c", "d")])
@pytest.mark.parametrize(("rows", "kept"), [(slice(1, 3), [1, 2]), ([3, 0, 0], [3, 0, 0])])
def test_taken_embeddings_keep_the_captions_that_they_have(captions, rows, kept):
    taken = Embedding(torch.arange(4.0)[:, None], "tiny", noise_level=3, captions=captions).take(rows)
    assert taken.vector[:, 0].tolist() == kept and taken.noise_level == 3
    assert taken.captions == (tuple("abcd"[row] for row in kept) if captions else ())


@pytest.mark.parametrize(("rows", "kept"), [(slice(1, 3), [1, 2]), ([3, 0], [3, 0])])
def test_taken_rows_keep_every_field_together(rows, kept):
    taken = encoding(4).take(rows)
    assert len(taken) == len(kept) and taken.captions == tuple(f"caption {i}" for i in kept)
    for value in (taken.tokens[:, 0, 0], taken.embed[:, 0], taken.ids[:, 0]):
        assert value.tolist() == kept
    assert taken.mask.shape == (2, 5) and taken.clip_id == "tiny"


def test_as_many_starts_as_the_node_offers():
    """A billion would be drawn one by one."""
    assert len(RandomNoise(0, 4096)) == 4096
    for count in (0, 4097, 2.0):
        with pytest.raises(ValueError, match=f"Random Noise: count must be a whole number from 1 to 4096, got {count}"):
            RandomNoise(0, count)


def start_noises():
    """One of every recipe that is worked out without a picture, five rows each."""
    random = RandomNoise(2**64 - 2, 5)  # its seeds wrap
    return [
        random,
        RandomNoise(7, 5, shared=True),
        GivenNoise(torch.randn(5, 3, 8, 8)),
        SlerpedNoise(random, RandomNoise(3, 2), tuple((row, row % 2, row / 4) for row in range(5))),
        JoinedNoise((RandomNoise(4), RandomNoise(8, 3), JoinedNoise((RandomNoise(2),)))),
    ]


@pytest.mark.parametrize("rows", [slice(0, 5), slice(1, 3), slice(4, 5)], ids=str)
def test_taken_rows_of_every_noise_are_rows_of_the_whole(rows):
    for noise in start_noises():
        whole, part = (draw_x_T(each, (3, 8, 8)) for each in (noise, noise.take(rows)))
        assert len(noise) == 5 and len(noise.take(rows)) == len(part)
        assert torch.equal(part, whole[rows]), noise
        image, mask = torch.rand(5, 4, 4, 3), torch.rand(5, 4, 4)
        taken = PictureStart(image, mask, 0.5, "squash", noise).take(rows)
        assert torch.equal(taken.image, image[rows]) and torch.equal(taken.mask, mask[rows])
        assert torch.equal(draw_x_T(taken.noise, (3, 8, 8)), whole[rows])
        assert (taken.strength, taken.crop) == (0.5, "squash")


def test_what_broadcasts_in_a_start_stays_when_rows_are_taken():
    image, mask = torch.rand(1, 4, 4, 3), torch.rand(4, 4)
    start = PictureStart(image, mask, noise=RandomNoise(5, 3))
    taken = start.take(slice(1, 2))
    assert len(start) == 3 and taken.image is image and taken.mask is mask and taken.noise == RandomNoise(6)
    alone = PictureStart(torch.rand(3, 4, 4, 3), mask[None]).take(slice(1, 3))
    assert len(alone) == 2 and alone.noise is None and len(alone.mask) == 1


def test_batches_of_one_broadcast_and_others_must_be_equal():
    assert broadcast_batch("x") == 1
    assert broadcast_batch("x", embed=1, text=9, noise=1) == 9
    with pytest.raises(ValueError, match=r"Decoder Sample: .*embed 2, text 3.*embed must be 1 or 3"):
        broadcast_batch("Decoder Sample", embed=2, text=3)


def test_expand_rows_is_a_view_of_one_row_and_leaves_others_alone():
    one = torch.randn(1, 3, 2)
    many = expand_rows(one, 4)
    assert many.shape == (4, 3, 2) and many.data_ptr() == one.data_ptr() and torch.equal(many[3], one[0])
    four = torch.randn(4, 3)
    assert expand_rows(four, 4) is four


def test_alpha_is_flattened_on_white_and_grey_becomes_colour():
    pixel = torch.tensor([0.2, 0.4, 0.6])
    picture = torch.cat([pixel.expand(1, 1, 3, 3), torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 3, 1)], dim=-1)
    x = (image_to_model(picture) + 1) / 2
    assert x.shape == (1, 3, 1, 3)
    torch.testing.assert_close(x[0, :, 0, 0], pixel)
    torch.testing.assert_close(x[0, :, 0, 1], pixel * 0.5 + 0.5)
    torch.testing.assert_close(x[0, :, 0, 2], torch.ones(3))
    grey = image_to_model(torch.full((2, 4, 5, 1), 0.25))
    assert grey.shape == (2, 3, 4, 5) and (grey == -0.5).all()


def test_pictures_come_back_from_the_networks_scale_clamped():
    picture = torch.rand(2, 4, 6, 3)
    torch.testing.assert_close(model_to_image(image_to_model(picture)), picture)
    x = torch.tensor([-3.0, 3.0, 0.0], dtype=torch.bfloat16, requires_grad=True).view(1, 3, 1, 1)
    image = model_to_image(x)
    assert image.flatten().tolist() == [0.0, 1.0, 0.5]
    assert image.dtype == torch.float32 and not image.requires_grad and image.is_contiguous()


@pytest.mark.parametrize("shape", [(4, 4, 3), (1, 3, 4, 5), (1, 4, 4, 2)])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(ValueError, match="1, 3 or 4 channels, got shape"):
        image_to_model(torch.zeros(shape))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"samples": torch.zeros(1, 4, 8, 8)}, r"got dict \(a LATENT; decode it"),
        ([1.0], "got list"),
        (None, "got NoneType"),
        (torch.zeros(1, 64, 64), r"shape \(1, 64, 64\) \(a MASK\? convert it"),
        (torch.zeros(1, 4, 4, 3, dtype=torch.uint8), "got uint8; divide by 255"),
    ],
)
def test_other_things_that_a_graph_can_link_are_named(other, said):
    with pytest.raises(ValueError, match=said):
        image_to_model(other)


def test_another_clip_is_refused_by_name_dimension_and_fix():
    check_same_clip("Decoder Sample", "ViT-L-14/openai", 768, "ViT-L-14/openai", 768)
    with pytest.raises(ValueError) as caught:
        check_same_clip("Decoder Sample", "ViT-L-14/openai", 768, "ViT-H-14/laion2b", 1024)
    assert str(caught.value) == (
        "Decoder Sample: this model was trained on ViT-L-14/openai (768-d) embeddings, but got 1024-d from "
        "ViT-H-14/laion2b; encode with the CLIP from the same Load unCLIP"
    )
    own = STORYBOOK.clip.clip_id
    with pytest.raises(ValueError) as caught:
        check_same_clip("Decoder Sample", own, 192, "ViT-L-14/openai", 768)
    assert f"trained on {own} (192-d, the CLIP of storybook) embeddings, but got 768-d from" in str(caught.value)
    with pytest.raises(ValueError) as caught:
        check_same_clip("Decoder Sample", "ViT-L-14/openai", 768, own, 192)
    assert f"but got 192-d from {own} (the CLIP of storybook); encode with" in str(caught.value)
    with pytest.raises(ValueError, match="768-d from ViT-L-14/laion400m"):
        check_same_clip("Decoder Sample", "ViT-L-14/openai", 768, "ViT-L-14/laion400m", 768)


def test_malformed_wires_are_refused():
    with pytest.raises(ValueError, match=r"vector must be \(B, D\), got shape \(3,\)"):
        Embedding(torch.zeros(3), "tiny")
    with pytest.raises(ValueError, match="modality must be 'image' or 'text', got 'sound'"):
        Embedding(torch.zeros(1, 3), "tiny", "sound")
    with pytest.raises(ValueError, match="x_T must be"):
        GivenNoise(torch.zeros(4, 8, 8))
    assert len(Embedding(torch.zeros(5, 3), "tiny")) == 5 and len(GivenNoise(torch.zeros(2, 3, 8, 8))) == 2
