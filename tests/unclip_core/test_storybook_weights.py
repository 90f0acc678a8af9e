"""The weights that ship: complete, of the presets' shapes, small enough, and they paint what the caption says."""

import dataclasses

import numpy as np
import pytest
import torch

from comfyui_unclip.unclip_core.checkpoints.catalog import EMBEDDED, read_stack
from comfyui_unclip.unclip_core.presets import STORYBOOK
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.storybook.scenes import BACKGROUNDS, COLOURS, OBJECTS
from comfyui_unclip.unclip_core.training.plan import preset_stack

TRAINED = ("clip", "prior", "decoder", "upsampler_256", "upsampler_1024", "ar_prior")


@pytest.fixture(scope="module")
def stack():
    return load_stack(read_stack(EMBEDDED / "storybook"), "fp32", "cpu")


def decode(stack, caption, count=4):
    """(count, 64, 64, 3): what the stack paints of a caption in 20 steps."""
    text = stack.clip.encode_text([caption])
    embed = stack.prior.sample(text, steps=10, count=count)
    return stack.decoder.sample(embed, text, steps=20, sampler="ddim")


def test_every_stage_has_the_preset_config_and_a_recipe():
    entry = read_stack(EMBEDDED / "storybook")
    assert set(TRAINED) <= set(entry.stages) and not entry.problems
    expected = dataclasses.asdict(preset_stack("storybook"))
    for stage in TRAINED:
        assert dataclasses.asdict(entry.stages[stage].config) == expected[stage], stage
        assert "steps" in entry.stages[stage].metadata["recipe"]
    assert STORYBOOK.name == entry.name


def test_the_embedded_stack_stays_under_40_megabytes():
    assert sum(path.stat().st_size for path in (EMBEDDED / "storybook").iterdir()) < 40e6


def test_the_vocabulary_knows_every_word_it_promises(stack):
    promised = " ".join((*OBJECTS, *COLOURS, *BACKGROUNDS)) + " 夜空中的一颗红色的星星"
    assert stack.clip.unknown_words(promised) == []
    assert stack.clip.unknown_words("an astronaut riding a horse") == ["astronaut", "riding", "horse"]


def test_the_background_and_the_colour_are_the_captions(stack):
    night = decode(stack, "a big red apple on a night sky")
    snow = decode(stack, "a big blue apple in the snow")
    border = torch.ones(64, 64, dtype=torch.bool)
    border[6:-6, 6:-6] = False
    assert night[:, border].mean() < 0.35 < 0.55 < snow[:, border].mean()
    for picture, channel in ((night, 0), (snow, 2)):  # somewhere in each picture the said colour rules
        others = picture[..., [c for c in range(3) if c != channel]].amax(-1)
        ruled = (picture[..., channel] - others > 0.2).flatten(1).float().mean(1)
        assert (ruled > 0.05).float().mean() >= 0.75, ruled


def test_two_things_keep_their_own_colours_and_places(stack):
    from comfyui_unclip.unclip_core.evaluation.report import SPLITS
    from comfyui_unclip.unclip_core.evaluation.storybook import captions_of
    from comfyui_unclip.unclip_core.evaluation.synthesis import fits
    from comfyui_unclip.unclip_core.storybook.shards import make_scenes

    scenes = make_scenes(8, SPLITS["validation"], "heldout", "two")
    text = stack.clip.encode_text(captions_of(scenes))
    made = stack.decoder.sample(stack.prior.sample(text), text, steps=20, sampler="ddim")
    assert sum(fit.binds(scene) for fit, scene in zip(fits(made), scenes, strict=True)) >= 6


def test_upsampling_beats_bicubic_on_a_render(stack):
    from comfyui_unclip.unclip_core.evaluation.enlarging import shrunk
    from comfyui_unclip.unclip_core.evaluation.storybook import SCENE_SEED, bicubic
    from comfyui_unclip.unclip_core.pictures.likeness import psnr
    from comfyui_unclip.unclip_core.storybook.draw import render
    from comfyui_unclip.unclip_core.storybook.shards import make_scenes

    drawn = [render(scene, 256, oversample=2).copy() for scene in make_scenes(4, SCENE_SEED, "heldout")]
    true = torch.from_numpy(np.stack(drawn)).float() / 255
    low = shrunk(true, 64)
    assert psnr(stack.upsampler_256.sample(low), true) > psnr(bicubic(low, 256), true) + 1.5


def test_no_lattice_shows_in_smooth_areas(stack):
    """The paper's networks have none; ours work on patches. The report measures 100 pictures, with their interval."""
    from comfyui_unclip.unclip_core.evaluation.pixels import lattice_energies

    small = decode(stack, "a small green leaf on a night sky")
    for pictures, period in ((small, 2), (stack.upsampler_256.sample(small), 4)):
        peaks, around = lattice_energies(pictures, period)
        assert sum(peaks) < 5 * sum(around)


@pytest.fixture(scope="module")
def held_out(stack):
    """Captions of 96 held-out scenes, and the embeddings of their true pictures."""
    from comfyui_unclip.unclip_core.evaluation.storybook import SCENE_SEED, captions_of, real_pictures
    from comfyui_unclip.unclip_core.storybook.shards import make_scenes

    scenes = make_scenes(96, SCENE_SEED, "heldout", "one")
    return stack.clip.encode_text(captions_of(scenes)), stack.clip.encode_image(real_pictures(scenes)).vector


def test_the_autoregressive_prior_imagines_the_right_pictures(stack, held_out):
    text, true = held_out
    guess = stack.ar_prior.sample(text).vector
    closeness = torch.cosine_similarity(guess, true)
    other = torch.cosine_similarity(guess, true.roll(1, 0))
    assert closeness.mean() > 0.85 and (closeness > other).float().mean() > 0.95
    assert closeness.mean() > torch.cosine_similarity(text.embed, true).mean() + 0.08  # nearer than the caption is


def test_the_fitted_tables_are_the_stacks_own(stack, held_out):
    from comfyui_unclip.unclip_core.clip.pca import basis_of, project
    from comfyui_unclip.unclip_core.types import Embedding

    text, true = held_out
    embed = Embedding(true, stack.clip.clip_id)
    kept = [project(embed, basis_of(stack.clip), [count], unit_norm=True).vector for count in (2, 12, 48)]
    closeness = [torch.cosine_similarity(part, true).mean() for part in kept]
    assert closeness[0] < closeness[1] < closeness[2] and closeness[2] > 0.99
    guess = stack.prior.sample(text.take(slice(32)), sampler="analytic_ddpm", steps=12).vector
    assert torch.cosine_similarity(guess, true[:32]).mean() > 0.88
