"""CLIP guidance: the gradient is right, also under inference mode, and it raises what it should raise."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from comfyui_unclip.unclip_core.checkpoints.catalog import EMBEDDED, read_stack
from comfyui_unclip.unclip_core.clip.model import Clip
from comfyui_unclip.unclip_core.config import ClipConfig, ClipTextConfig, ClipVisionConfig, ScheduleConfig
from comfyui_unclip.unclip_core.diffusion.schedule import Schedule
from comfyui_unclip.unclip_core.embeddings import similarity
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.stages.clip_guidance import ClipGuidance
from comfyui_unclip.unclip_core.stages.grid import Grid, resolve_grid
from comfyui_unclip.unclip_core.types import Embedding, PictureStart

GRID = Grid("Test", 3, 16, 16)


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
    guidance = ClipGuidance(clip, 1.0)
    gradient = guidance.gradient(x, target, GRID)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))

    def cosine(pixels):
        return F.cosine_similarity(clip.embed_pixels((pixels + 1) / 2), target)

    step = 1e-3
    with torch.no_grad():
        slope = (cosine(x + step * direction) - cosine(x - step * direction)) / (2 * step)
    assert torch.allclose(slope, (gradient * direction).flatten(1).sum(1), rtol=0.03, atol=1e-4)
    with torch.inference_mode():
        assert torch.allclose(guidance.gradient(x.clone(), target.clone(), GRID), gradient, atol=1e-6)


def test_shift_is_of_the_stated_size_and_fades_with_the_noise(clip):
    target, x = Embedding(torch.ones(1, 12), clip.clip_id), torch.zeros(1, 3, 16, 16)
    edit = ClipGuidance(clip, 2.0).edit(target, None, slice(0, 1), 1, GRID)
    steps = Schedule(ScheduleConfig()).respace(5)
    shifts = [(edit(x, step) - x).square().mean().sqrt().item() for step in steps]
    assert shifts == pytest.approx([0.04 * step.sigma**2 for step in steps], rel=1e-3)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
def test_guided_pictures_are_closer_to_the_target(tiny, clip, sampler):
    decoder, embed = tiny.decoder(), tiny.embed(2)
    options = {"sampler": sampler, "steps": 10, "seed": 1}
    with torch.inference_mode():
        plain, guided = (each.sample(embed, **options) for each in (decoder, decoder.with_clip_guidance(clip, 5.0)))
    closeness = [similarity(clip.encode_image(image), embed) for image in (plain, guided)]
    assert (closeness[1] > closeness[0] + 0.02).all()


@pytest.mark.parametrize("kind", ["movq", "kl"])
def test_on_latents_the_gradient_is_that_of_the_thinned_decode(tiny, clip, kind):
    """Through an autoencoder that has painted before, and whose own weights are packed since."""
    decoder = tiny.latent_decoder(kind=kind)
    decoder.sample(tiny.embed(), width=96)
    grid = resolve_grid("Test", decoder.config, decoder.autoencoder, 96, 64, None, pytest.fail)
    x = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(1)) * 0.5
    target = F.normalize(torch.randn(2, 12, generator=torch.Generator().manual_seed(2)), dim=1)
    guidance = ClipGuidance(clip, 1.0)
    gradient = guidance.gradient(x, target, grid)
    assert gradient.shape == x.shape and (gradient.flatten(1).norm(dim=1) > 1e-5).all()
    plain = decoder.autoencoder.read()

    def cosine(latents):
        pixels = plain.decode(F.interpolate(latents, (4, 6), mode="area"))  # 32 px is what this CLIP sees
        return F.cosine_similarity(clip.embed_pixels((pixels.clamp(-1, 1) + 1) / 2), target)

    direction = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    step = 2e-2
    with torch.no_grad():
        slope = (cosine(x + step * direction) - cosine(x - step * direction)) / (2 * step)
    assert torch.allclose(slope, (gradient * direction).flatten(1).sum(1), rtol=0.05, atol=1e-5)


def test_on_latents_it_brings_pictures_closer_to_a_text_that_the_decoder_does_not_read(tiny, clip):
    decoder, text, said = tiny.latent_decoder(), tiny.text(2), []
    options = {"sampler": "ddim", "steps": 10, "seed": 1, "warn": said.append}
    with torch.inference_mode():
        plain = decoder.sample(tiny.embed(2), **options)
        guiding = decoder.with_clip_guidance(clip, 20.0)
        away, toward = (
            guiding.sample(tiny.embed(2), replace(text, embed=x), **options) for x in (-text.embed, text.embed)
        )
    assert not said  # here a text does have an effect
    closeness = [similarity(clip.encode_image(image), text) for image in (away, plain, toward)]
    assert (closeness[0] + 0.003 < closeness[1]).all() and (closeness[1] + 0.003 < closeness[2]).all(), closeness


def test_the_text_is_the_target_where_there_is_one(tiny, clip):
    decoder, text = tiny.decoder(), tiny.text()
    options = {"steps": 10, "seed": 1, "sampler": "ddim"}
    guiding = decoder.with_clip_guidance(clip, 5.0)
    plain, guided = (each.sample(tiny.embed(), text, **options) for each in (decoder, guiding))
    assert similarity(clip.encode_image(guided), text) > similarity(clip.encode_image(plain), text) + 0.02


def test_it_works_with_a_mask_and_in_chunks(tiny, clip, limit_rows):
    image, mask = torch.rand(1, 16, 16, 3), torch.zeros(1, 16, 16)
    mask[..., :8] = 1.0
    options = {"noise": PictureStart(image, mask), "sampler": "ddim"}
    decoder = tiny.decoder().with_clip_guidance(clip, 3.0)
    whole = decoder.sample(tiny.embed(3), **options)
    assert (whole - image)[:, :, 8:].abs().max() < 1e-6
    limit_rows(1)
    assert torch.allclose(whole, decoder.sample(tiny.embed(3), **options), atol=1e-4)


def test_it_is_another_handle_of_the_same_weights(tiny, clip):
    decoder, options = tiny.decoder(), {"steps": 3, "seed": 1, "sampler": "ddim"}
    before = decoder.sample(tiny.embed(), **options)
    guiding = decoder.with_clip_guidance(clip, 5.0)
    assert guiding is not decoder and guiding.network is decoder.network and guiding != decoder
    assert not torch.equal(guiding.sample(tiny.embed(), **options), before)
    assert torch.equal(decoder.sample(tiny.embed(), **options), before)  # and this one is as it was
    assert torch.equal(decoder.with_clip_guidance(clip, 0.0).sample(tiny.embed(), **options), before)
    twice = guiding.with_clip_guidance(clip, 5.0)
    assert len(twice.guidance_by_clip) == 2 and len(guiding.guidance_by_clip) == 1
    assert not torch.equal(twice.sample(tiny.embed(), **options), guiding.sample(tiny.embed(), **options))


@pytest.mark.parametrize("scale", [-1.0, float("inf"), float("nan"), "1", True])
def test_bad_scales_are_refused(tiny, clip, scale):
    with pytest.raises(ValueError, match=r"CLIP Guidance: scale must be a number from 0 up .* got"):
        tiny.decoder().with_clip_guidance(clip, scale)


def test_a_target_is_needed_and_must_be_of_the_same_clip(tiny, clip):
    decoder = tiny.decoder()
    with pytest.raises(ValueError, match="needs a text or an embed to steer to"):
        decoder.with_clip_guidance(clip, 1.0).sample(None)
    other = Clip(ClipConfig(clip_id="other", embed_dim=12, architecture=None, vocabulary=("a",)))
    with pytest.raises(ValueError, match=r"CLIP Guidance: this model was trained on tiny/test .* from other"):
        decoder.with_clip_guidance(other, 1.0)
    assert not decoder.network.loaded


def test_on_the_shipped_stack_it_raises_the_similarity_to_the_caption():
    stack = load_stack(read_stack(EMBEDDED / "storybook"), "fp32", "cpu")
    clip, decoder = stack.clip, stack.decoder
    text = clip.encode_text(["a red star on a night sky"])
    options = {"steps": 12, "sampler": "ddim", "seed": 0, "guidance_scale": 1.0}
    pictures = [each.sample(None, text, **options) for each in (decoder, decoder.with_clip_guidance(clip, 2.0))]
    plain, guided = (similarity(clip.encode_image(picture), text).item() for picture in pictures)
    assert guided > plain + 0.01
