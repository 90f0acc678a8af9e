"""A complete stack with random weights, built and run in a second or two: every file and every stage is real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from comfyui_unclip.unclip_core.checkpoints.lora_file import save_lora
from comfyui_unclip.unclip_core.checkpoints.native import save_stage
from comfyui_unclip.unclip_core.checkpoints.tables import save_basis, save_noise_powers
from comfyui_unclip.unclip_core.clip.networks import build_network as build_clip
from comfyui_unclip.unclip_core.clip.pca import fit_pca
from comfyui_unclip.unclip_core.config import STAGES, ClipTextConfig, ClipVisionConfig, StackConfig
from comfyui_unclip.unclip_core.models.build import build_network
from comfyui_unclip.unclip_core.models.lora import Branch, attention_layers, new_branches
from comfyui_unclip.unclip_core.presets import KANDINSKY_2_2, STORYBOOK

VOCABULARY = ("a", "red", "blue", "star", "boat", "on", "in", "the", "night", "sky", "sea", "above")
CONTEXT = 12
CLIP_ID = "tiny-1"


def config() -> StackConfig:
    """The storybook stack's shape at toy widths, two or three steps a stage."""
    clip, prior, decoder = STORYBOOK.clip, STORYBOOK.prior, STORYBOOK.decoder
    sizes = {"channels": 16, "channel_mult": (1,), "depth": 1, "norm_groups": 8}
    unet = replace(decoder.unet, **sizes, patch_size=4, attention_resolutions=(16,), head_channels=8, context_width=16)
    low, high = STORYBOOK.upsampler_256, STORYBOOK.upsampler_1024
    return StackConfig(
        name="tiny",
        clip=replace(
            clip,
            clip_id=CLIP_ID,
            embed_dim=24,
            text_width=16,
            context_length=CONTEXT,
            vision=ClipVisionConfig(width=32, layers=1, head_width=16, patch_size=16, image_size=64),
            text=ClipTextConfig(width=16, layers=1, heads=2),
            vocabulary=VOCABULARY,
        ),
        prior=replace(
            prior,
            clip_id=CLIP_ID,
            clip_dim=24,
            text_width=16,
            context_length=CONTEXT,
            width=32,
            depth=1,
            heads=2,
            embed_scale=2.6,
            sampling=replace(prior.sampling, steps=3),
        ),
        decoder=replace(
            decoder,
            clip_id=CLIP_ID,
            clip_dim=24,
            text_width=16,
            embed_scale=4.9,
            unet=unet,
            sampling=replace(decoder.sampling, steps=3),
        ),
        upsampler_256=replace(
            low, unet=replace(low.unet, **sizes, patch_size=8), sampling=replace(low.sampling, steps=2)
        ),
        upsampler_1024=replace(
            high, unet=replace(high.unet, **sizes, patch_size=16), sampling=replace(high.sampling, steps=2)
        ),
        ar_prior=replace(
            STORYBOOK.ar_prior,
            clip_id=CLIP_ID,
            ar_prior_id="tiny-1/ar_prior",
            clip_dim=24,
            text_width=16,
            components=24,  # of random embeddings none can go
            buckets=32,
            bucket_features=8,
            context_length=26,
            width=16,
            depth=1,
            heads=2,
            embed_scale=4.9,
        ),
    )


def latent_config() -> StackConfig:
    """The same CLIP and prior before a decoder like Kandinsky 2.2's: on the 16 x 16 latents of 128 px pictures, without
    text, its null being a picture's embedding. There is nothing to enlarge."""
    stack, kandinsky = config(), KANDINSKY_2_2.decoder
    decoder = replace(
        kandinsky,
        clip_id=CLIP_ID,
        decoder_id="tiny-latent/decoder",
        clip_dim=24,
        text_width=16,
        extra_tokens=4,
        embed_scale=4.9,
        unet=replace(
            kandinsky.unet,
            image_size=16,
            channels=16,
            channel_mult=(1, 2),
            depth=1,
            attention_resolutions=(8,),
            head_channels=8,
            context_width=16,
            norm_groups=8,
        ),
        sampling=replace(kandinsky.sampling, steps=3),
        autoencoder=replace(kandinsky.autoencoder, channels=(8, 8, 16, 16), depth=1, codes=8, norm_groups=8),
    )
    return replace(stack, name="tiny-latent", decoder=decoder, upsampler_256=None, upsampler_1024=None, ar_prior=None)


def build(folder: Path, stack: StackConfig | None = None) -> Path:
    """Write the stack's files into `folder` and return it."""
    import torch

    stack = config() if stack is None else stack
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for stage in STAGES:
            if stage_config := getattr(stack, stage):
                network = build_clip(stage_config) if stage == "clip" else build_network(stage, stage_config)
                save_stage(folder / f"{stage}.safetensors", _lively(network).state_dict(), stage, stage_config)
        vectors = torch.nn.functional.normalize(torch.randn(100, 24), dim=-1)
        save_basis(folder / "tiny.pca.safetensors", fit_pca(vectors, CLIP_ID))
        powers = torch.linspace(0.0, 1.0, stack.prior.schedule.timesteps, dtype=torch.float64)
        save_noise_powers(folder / "tiny.analytic.safetensors", powers, stack.prior.prior_id)
    return folder


def lora(path: Path, word: str) -> Path:
    """Write a LoRA of the stack, with a new word: random branches of prior and decoder."""
    import torch

    stack, generator = config(), torch.Generator().manual_seed(0)
    stages = {}
    for stage in ("prior", "decoder"):
        branches = new_branches(attention_layers(build_network(stage, getattr(stack, stage))), 2)
        lively = {
            name: Branch(branch.down, torch.randn(branch.up.shape, generator=generator))
            for name, branch in branches.items()
        }
        stages[stage] = (getattr(getattr(stack, stage), f"{stage}_id"), lively)
    row = torch.randn(stack.clip.text_width, generator=generator)
    save_lora(path, stages, clip_id=CLIP_ID, words={word: row}, trigger=word)
    return path


def _lively(network):
    """Zero-initialised layers would make every stage ignore its inputs."""
    import torch

    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return network
