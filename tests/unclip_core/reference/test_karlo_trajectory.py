"""Every x_t of a whole picture against diffusers' pipelines, at reduced width, with the same noise, in float32.

25 / 25 / 7 steps, guidance 4 and 8: Karlo's own defaults. The pipelines run as they are; only their noise is ours.
"""

from dataclasses import replace

import pytest
import torch

from comfyui_unclip.unclip_core.clip.networks import empty_network
from comfyui_unclip.unclip_core.clip.preprocessing import preprocess
from comfyui_unclip.unclip_core.presets import KARLO
from comfyui_unclip.unclip_core.stages import Prior, finish

CAPTION, SEED = "a red star on a night sky", 7
STEPS = {"prior": 25, "decoder": 25, "super_res": 7}
NAMES = ("decoder", "text_encoder", "text_proj", "super_res_first", "super_res_last")


@pytest.fixture
def text_pipeline(both, karlo):
    """text_pipeline(**scheduler changes) -> UnCLIPPipeline over the folder's networks."""
    from diffusers import UnCLIPPipeline

    def make(**changes):
        networks = {name: both.networks[name] for name in (*NAMES, "prior")}
        return UnCLIPPipeline(**networks, tokenizer=both.tokenizer(), **both.schedulers(karlo, **changes))

    return make


def prior_with(stage, **changes):
    """The same prior, configured otherwise; x0_clamp is the schedule's."""
    clamp = changes.pop("x0_clamp")
    schedule = replace(stage.config.schedule, x0_clamp=clamp)
    network = stage.network.read()
    config = replace(stage.config, schedule=schedule, **changes)
    network.config = config
    return Prior(config, stage.network, stage.null_text)


def check_steps(states, reference):
    """Equal at every step to 1e-3 of the step's largest value."""
    assert len(states) == len(reference)
    for state, theirs in zip(states, reference, strict=True):
        assert state.x_t.shape == theirs.shape
        assert (state.x_t - theirs).abs().max() <= 1e-3 * theirs.abs().max(), (state.index, state.t)


def picture(stages, text, embed):
    """(64 px steps, super-resolution steps, picture) of our decoder and upsampler."""
    painted, enlarged = [], []
    small = finish(stages.decoder.sample_steps(embed, text, seed=SEED), painted.append)
    return painted, enlarged, finish(stages.upsampler_256.sample_steps(small, seed=SEED), enlarged.append)


def test_text_to_picture(both, text_pipeline, run_reference):
    reference = run_reference(text_pipeline(), STEPS, prompt=CAPTION)
    text, imagined = both.stages.clip.encode_text(CAPTION), []
    embed = finish(both.stages.prior.sample_steps(text, candidates=1, seed=SEED), imagined.append)
    check_steps(imagined, reference.steps["prior"])
    # The decoder's first step multiplies an error of eps by 20,000: it must start from the very same embedding.
    theirs = both.networks["prior"].post_process_latents(reference.steps["prior"][-1]).detach()
    assert torch.allclose(embed.vector, theirs, rtol=1e-3, atol=1e-4)
    painted, enlarged, image = picture(both.stages, text, replace(embed, vector=theirs))
    check_steps(painted, reference.steps["decoder"])
    check_steps(enlarged, reference.steps["super_res"])
    assert (image - reference.images).abs().max() < 1e-3


def test_variations_of_a_picture(both, karlo, run_reference):
    """The caption is the empty one, and the embedding is the picture's."""
    from diffusers import UnCLIPImageVariationPipeline

    clip = both.stages.clip
    image = torch.rand(1, 40, 48, 3, generator=torch.Generator().manual_seed(1))
    pipeline = UnCLIPImageVariationPipeline(
        **{name: both.networks[name] for name in (*NAMES, "image_encoder")},
        tokenizer=both.tokenizer(),
        feature_extractor=None,
        **{name: value for name, value in both.schedulers(karlo).items() if name != "prior_scheduler"},
    )
    pixels = preprocess(image, karlo.KarloSizes().vision_side, clip.config.image_mean, clip.config.image_std)
    steps = {name: count for name, count in STEPS.items() if name != "prior"}
    reference = run_reference(pipeline, steps, image=pixels)
    painted, enlarged, ours = picture(both.stages, None, clip.encode_image(image))
    check_steps(painted, reference.steps["decoder"])
    check_steps(enlarged, reference.steps["super_res"])
    assert (ours - reference.images).abs().max() < 1e-3


@pytest.mark.parametrize("clamp", [5.0, 10.0])
@pytest.mark.parametrize("mask_value", [None, -10000.0])
def test_the_config_says_whose_prior_is_followed(both, text_pipeline, run_reference, clamp, mask_value):
    """Karlo's source clamps x_0 at 10 and hides tokens fully, diffusers clamps at 5 and hides them by -10000."""
    pipeline = text_pipeline(prior_scheduler={"clip_sample_range": clamp})
    reference = run_reference(pipeline, {"prior": 25, "decoder": 2, "super_res": 2}, prompt=CAPTION)
    text, imagined = both.stages.clip.encode_text(CAPTION), []
    prior = prior_with(both.stages.prior, x0_clamp=clamp, mask_value=mask_value)
    finish(prior.sample_steps(text, candidates=1, seed=SEED), imagined.append)
    check_steps(imagined, reference.steps["prior"])
    assert max(state.x0.abs().max() for state in imagined) == clamp, "the clamp never bit"


def test_the_folder_is_read_as_diffusers_runs_it(both):
    config = both.stages.prior.config
    assert (config.schedule.x0_clamp, config.mask_value) == (5.0, -10000.0)
    assert (config.sampling.steps, config.sampling.guidance_scale) == (25, 4.0)
    decoder, upsampler = both.stages.decoder.config, both.stages.upsampler_256.config
    assert (decoder.sampling.steps, decoder.sampling.guidance_scale) == (25, 8.0)
    assert upsampler.final_network and upsampler.sampling.steps == 7


def test_karlos_own_clip_is_built_without_memory():
    """ViT-L-14 by its name in open_clip, for the folder's tensors to be assigned to."""
    network = empty_network(KARLO.clip)
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    assert network.transformer.width == 768 and network.visual.image_size == (224, 224)
