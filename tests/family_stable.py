"""Writes small Stable unCLIP folders and single files with random weights, as diffusers and latent diffusion do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

README = "---\nlicense: openrail++\n---\n# A small one for tests\n"
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
Networks = dict[str, torch.nn.Module]


@dataclass(frozen=True)
class Sizes:
    """Sizes of a Stable unCLIP. The heads of every tower and of the UNet have 64 channels, as the published ones'."""

    clip_dim: int
    activation: str  # of the CLIP whose image half it has
    vision_width: int = 128
    vision_layers: int = 2
    vision_patch: int = 16
    vision_side: int = 32
    text_width: int = 128
    text_layers: int = 2  # of the decoder's own tower
    channels: tuple[int, ...] = (64, 128, 128)
    layers_per_block: int = 1
    side: int = 12
    vae_channels: tuple[int, ...] = (32, 32, 64)
    vae_layers: int = 1


H = Sizes(128, "gelu")
L = Sizes(32, "quick_gelu")


def stable_unclip_h(folder: Path, sizes: Sizes = H, seed: int = 5, **options) -> Networks:
    """Like stable-diffusion-2-1-unclip: its CLIP, of which it has the image half, is that of its text encoder.

    options: of save_pretrained, as variant. `as_published` off: tensors are called as libraries of today call them.
    """
    return _write(folder, sizes, seed, **options)


def stable_unclip_l(folder: Path, sizes: Sizes = L, seed: int = 6, **options) -> Networks:
    """Like stable-diffusion-2-1-unclip-small: it reads a small Karlo's image embeddings."""
    return _write(folder, sizes, seed, **options)


def build_networks(sizes: Sizes, seed: int) -> Networks:
    """The networks by the names of their folders, lively and in evaluation mode."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

    vision = CLIPVisionConfig(
        hidden_size=sizes.vision_width,
        intermediate_size=4 * sizes.vision_width,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.vision_width // 64,
        projection_dim=sizes.clip_dim,
        patch_size=sizes.vision_patch,
        image_size=sizes.vision_side,
        hidden_act=sizes.activation,
    )
    text = CLIPTextConfig(
        hidden_size=sizes.text_width,
        intermediate_size=4 * sizes.text_width,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.text_width // 64,
        hidden_act="gelu",
    )
    levels = len(sizes.channels) - 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks: Networks = {
            "image_encoder": CLIPVisionModelWithProjection(vision),
            "text_encoder": CLIPTextModel(text),
            "image_normalizer": StableUnCLIPImageNormalizer(sizes.clip_dim),
            "unet": UNet2DConditionModel(
                sample_size=sizes.side,
                down_block_types=(*["CrossAttnDownBlock2D"] * levels, "DownBlock2D"),
                up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * levels),
                block_out_channels=sizes.channels,
                layers_per_block=sizes.layers_per_block,
                attention_head_dim=[width // 64 for width in sizes.channels],
                cross_attention_dim=sizes.text_width,
                use_linear_projection=True,
                upcast_attention=True,
                class_embed_type="projection",
                projection_class_embeddings_input_dim=2 * sizes.clip_dim,
            ),
            "vae": AutoencoderKL(
                latent_channels=4,
                block_out_channels=sizes.vae_channels,
                layers_per_block=sizes.vae_layers,
                down_block_types=["DownEncoderBlock2D"] * len(sizes.vae_channels),
                up_block_types=["UpDecoderBlock2D"] * len(sizes.vae_channels),
                scaling_factor=0.18215,
            ),
        }
        for network in networks.values():
            for parameter in network.parameters():
                scale = 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
                parameter.data.mul_(0.5).add_(torch.randn_like(parameter) * 0.5 * scale)
            network.eval().requires_grad_(False)
        networks["image_normalizer"].std.abs_().add_(0.4)
        # Random attention all but averages a caption's tokens, and what differs between captions with them.
        for name, parameter in networks["unet"].named_parameters():
            if ".attn2.to_q." in name or ".attn2.to_v." in name:
                parameter.mul_(4.0)
    return networks


def _write(folder: Path, sizes: Sizes, seed: int, as_published: bool = True, **options) -> Networks:
    from diffusers import DDIMScheduler, DDPMScheduler

    networks = build_networks(sizes, seed)
    for name, network in networks.items():
        network.save_pretrained(folder / name, **options)
    if as_published:
        for path in [*folder.glob("text_encoder/*.safetensors"), *folder.glob("vae/*.safetensors")]:
            save_file({_published(name): tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    DDIMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(folder / "image_noising_scheduler")
    _settings(folder / "tokenizer" / "special_tokens_map.json", bos_token="<|startoftext|>", pad_token="!")
    _settings(folder / "feature_extractor" / "preprocessor_config.json", image_processor_type="CLIPImageProcessor")
    parts = {name: ["-", type(network).__name__] for name, network in networks.items()}
    _settings(folder / "model_index.json", _class_name="StableUnCLIPImg2ImgPipeline", **parts)
    (folder / "README.md").write_text(README)
    return networks


def _published(name: str) -> str:
    """Of a tensor of text encoder or autoencoder, its name of early 2023."""
    if name.startswith(("embeddings.", "final_layer_norm.")) or ".self_attn." in name or ".layers." in name:
        return name if name.startswith("text_model.") else f"text_model.{name}"
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        name = name.replace(f".{new}.", f".{old}.")
    return name


def _settings(path: Path, **values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
