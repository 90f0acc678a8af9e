"""CLIP guidance: the gradient is right, also under inference mode, and it raises what it should raise."""

import pytest
import torch
import torch.nn.functional as F

from comfyui_unclip.unclip_core.checkpoints.catalog import EMBEDDED, read_stack
from comfyui_unclip.unclip_core.clip.model import Clip
from comfyui_unclip.unclip_core.config import ClipConfig, ClipTextConfig, ClipVisionConfig
from comfyui_unclip.unclip_core.embeddings import similarity
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.stages.clip_guidance import ClipGuide


@pytest.fixture(scope="module")
def clip():
    """A CLIP with random weights that fits the tiny decoder, its network built under inference mode as nodes do."""
    vision = ClipVisionConfig(width=32, layers=1, head_width=16, patch_size=8, image_size=32)
    config = ClipConfig(
        clip_id="tiny/test",
        embed_dim=12,
        text_width=16,
        context_length=8,
        normalised=True,
        architecture=None,
        pretrained=None,
        vision=vision,
        text=ClipTextConfig(width=16, layers=1, heads=2),
        vocabulary=("a", "star"),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = Clip(config)
        with torch.inference_mode():
            assert clip.network
    return clip


def test_the_gradient_is_that_of_the_cosine(clip):
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8
    target = F.normalize(torch.randn(2, 12, generator=torch.Generator().manual_seed(2)), dim=1)
    guide = ClipGuide(clip, target, 1.0)
    gradient = guide.gradient(x, target)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))

    def cosine(pixels):
        return F.cosine_similarity(clip.embed_pixels((pixels + 1) / 2), target)

    step = 1e-3
    with torch.no_grad():
        slope = (cosine(x + step * direction) - cosine(x - step * direction)) / (2 * step)
    assert torch.allclose(slope, (gradient * direction).flatten(1).sum(1), rtol=0.03, atol=1e-4)
    with torch.inference_mode():
        assert torch.allclose(guide.gradient(x.clone(), target.clone()), gradient, atol=1e-6)


def test_shift_is_of_the_stated_size_and_fades_with_the_noise(clip):
    target, x = torch.ones(1, 12), torch.zeros(1, 3, 16, 16)
    edit = ClipGuide(clip, target, 2.0).edit(slice(0, 1), 1)
    shifts = [(edit(x, torch.full((1, 1, 1, 1), sigma)) - x).square().mean().sqrt().item() for sigma in (1.0, 0.5)]
    assert shifts == pytest.approx([0.04, 0.01], rel=1e-3)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
def test_guided_pictures_are_closer_to_the_target(tiny, clip, sampler):
    decoder, embed = tiny.decoder(), tiny.embed(2)
    options = {"sampler": sampler, "steps": 10, "seed": 1, "clip": clip}
    with torch.inference_mode():
        plain, guided = (decoder.sample(embed, **options, clip_scale=scale) for scale in (0.0, 5.0))
    closeness = [similarity(clip.encode_image(image), embed) for image in (plain, guided)]
    assert (closeness[1] > closeness[0] + 0.02).all()


def test_the_text_is_the_target_where_there_is_one(tiny, clip):
    decoder, text = tiny.decoder(), tiny.text()
    options = {"steps": 10, "seed": 1, "sampler": "ddim", "clip": clip}
    plain, guided = (decoder.sample(tiny.embed(), text, **options, clip_scale=s) for s in (None, 5.0))
    assert similarity(clip.encode_image(guided), text) > similarity(clip.encode_image(plain), text) + 0.02


def test_it_works_with_a_mask_and_in_chunks(tiny, clip, limit_rows):
    image, mask = torch.rand(1, 16, 16, 3), torch.zeros(1, 16, 16)
    mask[..., :8] = 1.0
    options = {"image": image, "mask": mask, "clip": clip, "clip_scale": 3.0, "sampler": "ddim"}
    decoder = tiny.decoder()
    whole = decoder.sample(tiny.embed(3), **options)
    assert (whole - image)[:, :, 8:].abs().max() < 1e-6
    limit_rows(1)
    assert torch.allclose(whole, decoder.sample(tiny.embed(3), **options), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_scale": 1.0}, "clip_scale 1.0 needs a CLIP; link CLIP of Load unCLIP"),
        ({"clip_scale": -1.0}, "clip_scale must be a number from 0 up"),
        ({"clip_scale": float("inf")}, "got inf"),
    ],
)
def test_bad_values_are_refused_before_any_work(tiny, options, message):
    decoder = tiny.decoder()
    with pytest.raises(ValueError, match=message):
        decoder.sample(tiny.embed(), **options)
    assert not decoder.network.loaded


def test_a_target_is_needed_and_must_be_of_the_same_clip(tiny, clip):
    decoder = tiny.decoder()
    with pytest.raises(ValueError, match="needs a text or an embed to steer to"):
        decoder.sample(None, clip=clip, clip_scale=1.0)
    other = Clip(ClipConfig(clip_id="other", embed_dim=12, architecture=None, vocabulary=("a",)))
    with pytest.raises(ValueError, match="trained on other"):
        decoder.sample(tiny.embed(), clip=other, clip_scale=1.0)


def test_on_the_shipped_stack_it_raises_the_similarity_to_the_caption():
    stack = load_stack(read_stack(EMBEDDED / "storybook"), "fp32", "cpu")
    clip, decoder = stack.clip, stack.decoder
    text = clip.encode_text(["a red star on a night sky"])
    options = {"steps": 12, "sampler": "ddim", "seed": 0, "guidance_scale": 1.0, "clip": clip}
    pictures = [decoder.sample(None, text, **options, clip_scale=scale) for scale in (0.0, 2.0)]
    plain, guided = (similarity(clip.encode_image(picture), text).item() for picture in pictures)
    assert guided > plain + 0.02
