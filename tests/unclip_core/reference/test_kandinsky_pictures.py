"""Kandinsky's decoders from a folder: every x_t of a picture against the pipeline that diffusers makes of the same
folder, schedulers and text encoder included, with the same noise, in float32."""

import diffusers
import pytest
import torch

from comfyui_unclip.unclip_core.checkpoints.catalog import read_stack
from comfyui_unclip.unclip_core.diffusion.noise import ItemNoise
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.stages import finish
from comfyui_unclip.unclip_core.types import Embedding

CAPTION, NEGATIVE, SEED, STEPS, SIDE = "a red star, кот", "blue boat", 7, 12, 64


@pytest.fixture(scope="module", params=["2.1", "2.2"])
def both(request, family, tmp_path_factory):
    """(diffusers' pipeline with the DDPM scheduler of the folder, our stack, version)."""
    folder, version = tmp_path_factory.mktemp("models"), request.param
    first = version == "2.1"
    (family.kandinsky_2_1 if first else family.kandinsky_2_2)(folder, seed=5)
    name = "kandinsky-2-1" if first else "kandinsky-2-2-decoder"
    pipeline = (diffusers.KandinskyPipeline if first else diffusers.KandinskyV22Pipeline).from_pretrained(folder / name)
    scheduler = "ddpm_scheduler" if first else "scheduler"
    pipeline.scheduler = diffusers.DDPMScheduler.from_pretrained(folder / name, subfolder=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, load_stack(read_stack(folder / name), "fp32", "cpu"), version


@pytest.fixture
def run(both, monkeypatch):
    """run(**arguments) -> (the pipeline's picture, its x_t by step) over our noise."""

    def make(**arguments):
        noise, steps, pipeline = ItemNoise(SEED, 1, "decoder"), [], both[0]
        name = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
        monkeypatch.setattr(name, lambda shape, **_: noise.draw(tuple(shape)[1:]))
        step = pipeline.scheduler.step

        def recorded(*args, **options):
            result = step(*args, **options)
            steps.append(result[0])
            return result

        monkeypatch.setattr(pipeline.scheduler, "step", recorded)
        latents = noise.draw((4, SIDE // 8, SIDE // 8))
        size = {"height": SIDE, "width": SIDE, "num_inference_steps": STEPS, "guidance_scale": 4.0}
        return torch.from_numpy(pipeline(latents=latents, output_type="np", **size, **arguments).images), steps

    return make


def check(decoder, states, picture, reference, expected):
    """Equal at every step to 1e-3 of the step's largest value, and the picture."""
    assert len(states) == len(reference) == STEPS
    for state, theirs in zip(states, reference, strict=True):
        assert (state.x_t - theirs).abs().max() <= 1e-3 * theirs.abs().max(), state.index
    assert picture.shape == expected.shape and expected.std() > 0.05
    assert (picture - expected).abs().max() < 1e-3


@pytest.mark.parametrize("negative", [None, NEGATIVE])
def test_a_picture(both, run, negative):
    """Kandinsky 2.1 reads the caption by its own encoder, which pads it and lets the padding be seen."""
    _, stack, version = both
    first, dim = version == "2.1", stack.decoder.config.clip_dim
    vector = torch.randn(1, dim, generator=torch.Generator().manual_seed(2))
    embed, null = Embedding(vector, stack.clip.clip_id), stack.clip.encode_null_image()
    conditions = {"image_embeds": embed.vector, "negative_image_embeds": null.vector}
    texts = {}
    if first:
        conditions |= {"prompt": CAPTION, "negative_prompt": negative}
        encode = stack.clip.encode_text
        texts = {"text": encode(CAPTION), "negative_text": None if negative is None else encode(negative)}
    elif negative is not None:
        other = torch.randn(1, dim, generator=torch.Generator().manual_seed(3))
        conditions["negative_image_embeds"] = other
        texts = {"negative_embed": Embedding(other, stack.clip.clip_id)}
    expected, reference = run(**conditions)
    states = []
    options = {"steps": STEPS, "guidance_scale": 4.0, "seed": SEED, "width": SIDE, "height": SIDE}
    picture = finish(stack.decoder.sample_steps(embed, **texts, **options), states.append)
    check(stack.decoder, states, picture, reference, expected)


@pytest.mark.parametrize("both", ["2.1"], indirect=True)
def test_captions_are_read_as_the_pipeline_does(both):
    pipeline, stack, _ = both
    captions = [CAPTION, "", "star " * 90]
    theirs = pipeline.tokenizer(captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    ids, mask = stack.decoder.own_text.spell(captions)
    assert torch.equal(ids, theirs.input_ids) and torch.equal(mask, theirs.attention_mask.bool())
    pooled, states = pipeline.text_encoder(theirs.input_ids, theirs.attention_mask)
    found = stack.decoder.own_text.encode(tuple(captions))
    assert (found.tokens - states).abs().max() <= 1e-4 * states.abs().max()
    assert (found.embed - pooled).abs().max() <= 1e-4 * pooled.abs().max()
