"""What Kandinsky's prior pipelines make besides: a decoder's negative, and "embedding to embedding".

Over one reduced prior, with the same noise, in float32.
"""

import pytest
import torch

from comfyui_unclip.unclip_core.diffusion.noise import ItemNoise
from comfyui_unclip.unclip_core.stages import finish
from comfyui_unclip.unclip_core.types import Embedding

PROMPT, NEGATIVE, SEED, STEPS = "a red star on a night sky", "a blue boat", 7, 12


@pytest.fixture
def pipeline(both, karlo, monkeypatch):
    """pipeline(class, rows) -> (the pipeline over the folder's networks, its x_t by step)."""

    def make(kind, rows):
        from diffusers import UnCLIPScheduler
        from diffusers.pipelines.kandinsky2_2 import (
            pipeline_kandinsky2_2_prior,
            pipeline_kandinsky2_2_prior_emb2emb,
        )
        from diffusers.schedulers import scheduling_unclip

        noise = ItemNoise(SEED, rows, "prior")
        modules = pipeline_kandinsky2_2_prior, pipeline_kandinsky2_2_prior_emb2emb
        for module in (*modules, scheduling_unclip):
            monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: noise.draw(tuple(shape)[1:]))
        scheduler = UnCLIPScheduler(**karlo.SCHEDULERS["prior_scheduler"])
        made = kind(
            **{name: both.networks[name] for name in ("prior", "text_encoder", "image_encoder")},
            tokenizer=both.tokenizer(),
            scheduler=scheduler,
            image_processor=None,
        )
        made.set_progress_bar_config(disable=True)
        steps, step = [], scheduler.step

        def recorded(*args, **options):
            result = step(*args, **options)
            steps.append(result.prev_sample)
            return result

        monkeypatch.setattr(scheduler, "step", recorded)
        return made, steps

    return make


def check_steps(states, reference, row=slice(None)):
    """Equal at every step to 1e-3 of the step's largest value."""
    assert len(states) == len(reference) > 0
    for state, theirs in zip(states, reference, strict=True):
        assert (state.x_t - theirs[row]).abs().max() <= 1e-3 * theirs.abs().max(), state.index


def test_the_negative_of_a_decoder_is_an_unguided_run_on_the_negative_prompt(both, pipeline):
    """The pipeline runs prompt and negative prompt as a batch; as a graph these are two Diffusion Priors."""
    from diffusers import KandinskyV22PriorPipeline

    theirs, steps = pipeline(KandinskyV22PriorPipeline, rows=2)
    found = theirs(PROMPT, negative_prompt=NEGATIVE, num_inference_steps=STEPS, guidance_scale=4.0)
    prior, clip = both.stages.prior, both.stages.clip
    text, negative = clip.encode_text(PROMPT), clip.encode_text(NEGATIVE)
    # Row i of a batch has seed + i.
    runs = {
        "image_embeds": (text, {"negative_text": negative, "guidance_scale": 4.0, "seed": SEED}),
        "negative_image_embeds": (negative, {"guidance_scale": 1.0, "seed": SEED + 1}),
    }
    for row, (output, (caption, options)) in enumerate(runs.items()):
        states = []
        embed = finish(prior.sample_steps(caption, candidates=1, steps=STEPS, **options), states.append)
        check_steps(states, steps, slice(row, row + 1))
        assert torch.allclose(embed.vector, found[output], rtol=1e-3, atol=1e-4)


def test_a_start_is_what_emb2emb_makes_of_the_scaled_embedding_over_our_timesteps(both, pipeline, monkeypatch):
    """The pipeline noises the embedding as CLIP gave it, and has `strength` of its steps left; its prior was trained on
    scaled ones, and we keep all steps. Given a scaled one and our timesteps, it is the very same run."""
    from diffusers import KandinskyV22PriorEmb2EmbPipeline

    prior, strength = both.stages.prior, 0.4
    network = prior.network.read()
    assert network.mean.abs().max() > 0.1 and (network.std - 1.0).abs().max() > 0.1, "scaling would be no test"
    vector = torch.randn(1, prior.config.clip_dim, generator=torch.Generator().manual_seed(3))
    start = Embedding(network.unscale(vector), prior.config.clip_id)
    theirs, steps = pipeline(KandinskyV22PriorEmb2EmbPipeline, rows=1)
    # From round(0.4 * 999) down to 0.
    timesteps = torch.linspace(400, 0, STEPS).round().long()
    monkeypatch.setattr(theirs, "get_timesteps", lambda *_: (timesteps, STEPS))
    options = {"num_inference_steps": STEPS, "strength": strength, "guidance_scale": 4.0}
    found = theirs(PROMPT, image=network.scale(start.vector), **options)
    states, text = [], both.stages.clip.encode_text(PROMPT)
    options = {"candidates": 1, "steps": STEPS, "guidance_scale": 4.0, "seed": SEED}
    run = prior.sample_steps(text, start_embed=start, strength=strength, **options)
    embed = finish(run, states.append)
    assert [state.t for state in states] == timesteps.tolist()
    check_steps(states, steps)
    assert torch.allclose(embed.vector, found.image_embeds, rtol=1e-3, atol=1e-4)
    without = prior.sample(text, **options)
    assert not torch.allclose(embed.vector, without.vector, atol=1e-2)
