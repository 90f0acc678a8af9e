"""Stable unCLIP against diffusers' pipelines, at reduced width, from the same folders and noise, in float32.

The schedulers are the folder's own, with its spacing of timesteps. The last step alone differs: ours ends at the x_0
that it predicts, `set_alpha_to_one: false` leaves noise of the first timestep in it.
"""

import functools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableUnCLIPImg2ImgPipeline, StableUnCLIPPipeline, UnCLIPScheduler
from diffusers.pipelines.stable_diffusion import pipeline_stable_unclip, pipeline_stable_unclip_img2img
from diffusers.schedulers import scheduling_ddim, scheduling_ddpm

from comfyui_unclip.unclip_core.checkpoints.catalog import find
from comfyui_unclip.unclip_core.clip.preprocessing import preprocess
from comfyui_unclip.unclip_core.diffusion.noise import ItemNoise
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.stages import finish
from comfyui_unclip.unclip_core.types import Embedding

CAPTION, NEGATIVE, SEED = "a red star on a night sky", "a boat", 7
OWN = ("image_normalizer", "text_encoder", "unet", "vae")


class Tokenizer:
    """Open_clip's byte pairs behind transformers' interface, filled up as a folder's special_tokens_map.json says."""

    model_max_length = 77
    added_tokens_encoder: dict = {}  # noqa: RUF012 - textual inversion's

    def __init__(self, tokenize, padding) -> None:
        self._tokenize, self._padding = tokenize, padding

    def tokenize(self, prompt):
        return []

    def __call__(self, prompt, **options):
        ids, mask = self._tokenize([prompt] if isinstance(prompt, str) else list(prompt))
        return SimpleNamespace(input_ids=ids.masked_fill(~mask, self._padding), attention_mask=mask.long())


@pytest.fixture(scope="module")
def both(stable_unclip, karlo, tmp_path_factory):
    """Every network by diffusers, and our stacks over the folders: h, and small with Karlo's prior."""
    folder = tmp_path_factory.mktemp("models")
    networks = {
        "karlo": karlo.write_karlo_folder(folder / "karlo-v1-alpha"),
        "h": stable_unclip.stable_unclip_h(folder / "h"),
        "small": stable_unclip.stable_unclip_l(folder / "small"),
    }
    stacks = {name: load_stack(find(name, [folder]), "fp32", "cpu") for name in ("h", "small")}
    return SimpleNamespace(networks=networks, stacks=stacks, folder=folder)


def components(both, name, scheduler=None):
    """What both pipelines have in common."""
    tokenize = both.stacks["small"].clip.tokenize
    folder = both.folder / name
    return {network: both.networks[name][network] for network in OWN} | {
        "tokenizer": Tokenizer(tokenize, padding=0),
        "scheduler": scheduler or DDIMScheduler.from_pretrained(folder / "scheduler"),
        "image_noising_scheduler": DDPMScheduler.from_pretrained(folder / "image_noising_scheduler"),
    }


@pytest.fixture
def run(monkeypatch):
    """run(pipeline, noises, **arguments) -> {scheduler's name: its steps' results} and the picture; noises: (stage, how
    often it draws), in the pipeline's order."""

    def apply(pipeline, noises, **arguments):
        sources = (draw for stage, count in noises for draw in [ItemNoise(SEED, 1, stage)] * count)

        def randn(shape, **_):
            return next(sources).draw(tuple(shape)[1:])

        for module in (pipeline_stable_unclip, pipeline_stable_unclip_img2img, scheduling_ddim, scheduling_ddpm):
            monkeypatch.setattr(module, "randn_tensor", randn)
        steps = {}
        for name in ("prior_scheduler", "scheduler"):
            if (scheduler := getattr(pipeline, name, None)) is not None:
                monkeypatch.setattr(scheduler, "step", _recorded(scheduler.step, steps.setdefault(name, [])))
        pipeline.set_progress_bar_config(disable=True)
        with torch.no_grad():
            picture = torch.from_numpy(pipeline(**arguments, output_type="np").images)
        assert next(sources, None) is None, "it drew less than we do"
        return steps, picture

    return apply


def _recorded(step, steps):
    @functools.wraps(step)  # pipelines look at its signature
    def recorded(*args, return_dict=True, **options):
        result = step(*args, return_dict=True, **options)
        steps.append(result)
        return (result.prev_sample,)

    return recorded


def check(states, reference):
    """Every x_t but the last to 1e-3 of its largest value, and the x_0 that it ends at."""
    assert len(states) == len(reference) > 3
    for state, theirs in zip(states[:-1], reference[:-1], strict=True):
        expected = theirs.prev_sample
        assert (state.x_t - expected).abs().max() <= 1e-3 * expected.abs().max(), (state.index, state.t)
    expected = reference[-1].pred_original_sample
    assert (states[-1].x_t - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_text_to_picture_by_karlos_prior(both, run):
    """StableUnCLIPPipeline, its prior over Karlo's own timesteps; noise level 100."""
    networks, stack = both.networks["karlo"], both.stacks["small"]
    config = UnCLIPScheduler.from_pretrained(both.folder / "karlo-v1-alpha" / "prior_scheduler").config
    pipeline = StableUnCLIPPipeline(
        **components(both, "small"),
        prior=networks["prior"],
        prior_text_encoder=networks["text_encoder"],
        prior_tokenizer=Tokenizer(stack.clip.tokenize, padding=49407),
        prior_scheduler=DDPMScheduler.from_config(config, timestep_spacing="linspace"),
    )
    noises = [("prior", 25), ("embed_noise", 1), ("decoder", 1)]
    steps, _ = run(pipeline, noises, prompt=CAPTION, noise_level=100)

    text, imagined, painted = stack.clip.encode_text(CAPTION), [], []
    embed = finish(stack.prior.sample_steps(text, candidates=1, seed=SEED), imagined.append)
    for state, theirs in zip(imagined, steps["prior_scheduler"], strict=True):
        expected = theirs.prev_sample
        assert (state.x_t - expected).abs().max() <= 1e-3 * expected.abs().max(), (state.index, state.t)
    noisy = stack.decoder.noise_embedding(embed, 100, SEED)
    finish(stack.decoder.sample_steps(noisy, text, seed=SEED), painted.append)
    check(painted, steps["scheduler"])


@pytest.mark.parametrize("name", ["h", "small"])
@pytest.mark.parametrize(("level", "text", "negative"), [(0, None, None), (250, CAPTION, NEGATIVE)])
def test_variations_of_a_picture(both, run, name, level, text, negative):
    """StableUnCLIPImg2ImgPipeline, without and with a caption, which h's CLIP cannot read."""
    stack, clip = both.stacks[name], both.stacks[name].clip
    image = torch.rand(1, 40, 48, 3, generator=torch.Generator().manual_seed(1))
    pipeline = StableUnCLIPImg2ImgPipeline(
        **components(both, name), image_encoder=both.networks[name]["image_encoder"], feature_extractor=None
    )
    pixels = preprocess(image, clip.image_size, clip.config.image_mean, clip.config.image_std)
    arguments = {"prompt": text or "", "negative_prompt": negative, "noise_level": level}
    steps, _ = run(pipeline, [("embed_noise", 1), ("decoder", 1)], image=pixels, **arguments)

    captions = {key: clip.read_captions(value) for key, value in (("text", text), ("negative_text", negative)) if value}
    embed = stack.decoder.noise_embedding(clip.encode_image(image), level, SEED)
    painted = []
    finish(stack.decoder.sample_steps(embed, **captions, seed=SEED), painted.append)
    check(painted, steps["scheduler"])


def test_the_picture_is_diffusers(both, run):
    """With `set_alpha_to_one` the last step ends at x_0, as ours does. With fresh noise a step, at another size."""
    stack = both.stacks["h"]
    scheduler = DDIMScheduler.from_pretrained(both.folder / "h" / "scheduler", set_alpha_to_one=True)
    pipeline = StableUnCLIPImg2ImgPipeline(
        **components(both, "h", scheduler), image_encoder=both.networks["h"]["image_encoder"], feature_extractor=None
    )
    vector = torch.randn(1, 128, generator=torch.Generator().manual_seed(2))
    embed = stack.decoder.noise_embedding(Embedding(vector, stack.clip.clip_id), 0, SEED)
    arguments = {"image_embeds": vector, "image": None, "prompt": CAPTION, "eta": 0.7, "num_inference_steps": 10}
    noises = [("embed_noise", 1), ("decoder", 11)]
    _, picture = run(pipeline, noises, width=64, height=32, **arguments)
    text = stack.clip.read_captions(CAPTION)
    ours = stack.decoder.sample(embed, text, seed=SEED, steps=10, eta=0.7, width=64, height=32, sampler="ddim")
    assert ours.shape == picture.shape == (1, 32, 64, 3) and picture.std() > 0.05
    assert (ours - picture).abs().max() < 1e-3


@pytest.mark.parametrize("level", [0, 1, 500, 999])
def test_noise_on_embeddings_is_diffusers(both, monkeypatch, level):
    """StableUnCLIPImageNormalizer and DDPMScheduler.add_noise, by their pipeline."""
    decoder = both.stacks["small"].decoder
    pipeline = StableUnCLIPImg2ImgPipeline(**components(both, "small"), image_encoder=None, feature_extractor=None)
    vector = torch.randn(3, 32, generator=torch.Generator().manual_seed(3)) * 2
    noise = ItemNoise(SEED, 3, "embed_noise").draw((32,))
    expected = pipeline.noise_image_embeddings(vector, noise_level=level, noise=noise)[:, :32]
    embed = Embedding(vector, decoder.config.clip_id)
    found = decoder.noise_embedding(embed, level, SEED)
    assert torch.allclose(found.vector, expected, atol=1e-5) and found.noise_level == level
    alone = decoder.noise_embedding(replace(embed, vector=vector[2:]), level, SEED + 2)
    assert torch.equal(alone.vector[0], found.vector[2])
