"""Kandinsky's priors from a folder: every x_t of a caption's embedding against the pipeline that diffusers makes of the
same folder, tokenizer and scheduler included, with the same noise, in float32."""

import diffusers
import pytest
import torch

from comfyui_unclip.unclip_core.checkpoints.catalog import read_stack
from comfyui_unclip.unclip_core.diffusion.noise import ItemNoise
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.stages import finish

CAPTIONS, NEGATIVE, SEED, STEPS = ["a red star on a night sky, 4k", "雨の中の犬"], "a blue boat", 7, 25


@pytest.fixture(scope="module", params=["2.1", "2.2"])
def both(request, family, tmp_path_factory):
    """(diffusers' pipeline, our stack) of one folder: OpenAI's activation and padding, or OpenCLIP's."""
    folder = tmp_path_factory.mktemp("models") / "some-prior"
    kinds = {
        "2.1": ("KandinskyPriorPipeline", "quick_gelu", "<|endoftext|>"),
        "2.2": ("KandinskyV22PriorPipeline", "gelu", "!"),
    }
    name, activation, padding = kinds[request.param]
    family.write_prior(folder, None, name, activation, padding, seed=3)
    pipeline = getattr(diffusers, name).from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, load_stack(read_stack(folder), "fp32", "cpu")


@pytest.fixture
def run(both, monkeypatch):
    """run(rows, arguments) -> (the pipeline's output, its x_t by step) over the noise of our items."""
    from diffusers.pipelines.kandinsky import pipeline_kandinsky_prior
    from diffusers.pipelines.kandinsky2_2 import pipeline_kandinsky2_2_prior
    from diffusers.schedulers import scheduling_unclip

    def make(rows, **arguments):
        noise, steps, pipeline = ItemNoise(SEED, rows, "prior"), [], both[0]
        for module in (pipeline_kandinsky_prior, pipeline_kandinsky2_2_prior, scheduling_unclip):
            monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: noise.draw(tuple(shape)[1:]))
        step = pipeline.scheduler.step

        def recorded(*args, **options):
            result = step(*args, **options)
            steps.append(result.prev_sample)
            return result

        monkeypatch.setattr(pipeline.scheduler, "step", recorded)
        return pipeline(num_inference_steps=STEPS, guidance_scale=4.0, **arguments), steps

    return make


def check_steps(states, reference):
    """Equal at every step to 1e-3 of the step's largest value."""
    assert len(states) == len(reference) == STEPS
    for state, theirs in zip(states, reference, strict=True):
        assert (state.x_t - theirs).abs().max() <= 1e-3 * theirs.abs().max(), state.index


def test_captions_as_they_come(both, run):
    """With the defaults, and the null of the decoder: CLIP's embedding of the all-zero picture."""
    found, reference = run(2, prompt=CAPTIONS)
    stack, states = both[1], []
    text = stack.clip.encode_text(CAPTIONS)
    embed = finish(stack.prior.sample_steps(text, candidates=1, seed=SEED), states.append)
    check_steps(states, reference)
    assert (embed.vector - found.image_embeds).abs().max() <= 1e-3 * found.image_embeds.abs().max()
    null = found.negative_image_embeds[:1]
    assert (stack.clip.encode_null_image().vector - null).abs().max() <= 1e-4 * null.abs().max()


def test_a_negative_prompt(both, run):
    """It takes the empty caption's place, and its own run gives the decoder's negative embedding."""
    found, reference = run(2, prompt=CAPTIONS[:1], negative_prompt=[NEGATIVE])
    stack, states = both[1], []
    text, negative = stack.clip.encode_text([CAPTIONS[0], NEGATIVE]), stack.clip.encode_text(NEGATIVE)
    options = {"candidates": 1, "seed": SEED, "negative_text": negative}
    embed = finish(stack.prior.sample_steps(text, **options), states.append)
    check_steps(states, reference)
    theirs = torch.cat([found.image_embeds, found.negative_image_embeds])
    assert (embed.vector - theirs).abs().max() <= 1e-3 * theirs.abs().max()


def test_padding_is_never_seen(both):
    """The two tokenizers fill captions up with other ids, which the mask hides from the prior."""
    pipeline, stack = both
    theirs = pipeline.tokenizer(CAPTIONS, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    ids, mask = stack.clip.tokenize(CAPTIONS)
    assert torch.equal(ids, theirs.input_ids) and torch.equal(mask, theirs.attention_mask.bool())
    assert ids[0, -1] == stack.clip.config.padding == pipeline.tokenizer.pad_token_id
