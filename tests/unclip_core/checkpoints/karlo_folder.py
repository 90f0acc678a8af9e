"""Writes Karlo folders as diffusers and transformers write them, with random weights, at any size.

`write_karlo_folder` lets the libraries build and save the networks. `write_full_folder` writes the published sizes
tensor by tensor, without ever holding a network: for benchmarks and for running the graphs at full size.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

LIBRARIES = {
    "prior": ("diffusers", "PriorTransformer"),
    "decoder": ("diffusers", "UNet2DConditionModel"),
    "text_proj": ("diffusers", "UnCLIPTextProjModel"),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "super_res_first": ("diffusers", "UNet2DModel"),
    "super_res_last": ("diffusers", "UNet2DModel"),
    "prior_scheduler": ("diffusers", "UnCLIPScheduler"),
    "decoder_scheduler": ("diffusers", "UnCLIPScheduler"),
    "super_res_scheduler": ("diffusers", "UnCLIPScheduler"),
    "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
    "feature_extractor": ("transformers", "CLIPImageProcessor"),
}
SCHEDULERS = {
    "prior_scheduler": {
        "variance_type": "fixed_small_log",
        "prediction_type": "sample",
        "clip_sample_range": 5.0,
    },
    "decoder_scheduler": {"variance_type": "learned_range", "prediction_type": "epsilon"},
    "super_res_scheduler": {"variance_type": "fixed_small_log", "prediction_type": "epsilon"},
}
README = "---\nlicense: creativeml-openrail-m\ntags:\n- text-to-image\n---\n# Karlo v1 alpha\n"


@dataclass(frozen=True)
class KarloSizes:
    """Sizes of a Karlo. The defaults are those of the tests; FULL holds the published ones."""

    clip_dim: int = 32
    text_width: int = 32
    text_layers: int = 2
    text_heads: int = 2
    vision_width: int = 32
    vision_layers: int = 2
    vision_heads: int = 2
    vision_patch: int = 16
    vision_side: int = 32
    context_length: int = 77
    prior_heads: int = 2
    prior_head_width: int = 16
    prior_layers: int = 2
    channels: tuple[int, ...] = (32, 64)
    layers_per_block: int = 1
    head_channels: int = 16
    context_width: int = 48
    side: int = 16
    super_channels: tuple[int, ...] = (32, 64)
    super_layers: int = 1
    super_side: int = 32


FULL = KarloSizes(
    clip_dim=768,
    text_width=768,
    text_layers=12,
    text_heads=12,
    vision_width=1024,
    vision_layers=24,
    vision_heads=16,
    vision_patch=14,
    vision_side=224,
    prior_heads=32,
    prior_head_width=64,
    prior_layers=20,
    channels=(320, 640, 960, 1280),
    layers_per_block=3,
    head_channels=64,
    context_width=1536,
    side=64,
    super_channels=(320, 640, 960, 1280),
    super_layers=3,
    super_side=256,
)


def build_network(name: str, sizes: KarloSizes) -> torch.nn.Module:
    """One network of the folder, by its folder name, built by diffusers or transformers with fresh weights."""
    from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    levels = len(sizes.channels) - 1
    if name == "prior":
        return PriorTransformer(
            num_attention_heads=sizes.prior_heads,
            attention_head_dim=sizes.prior_head_width,
            num_layers=sizes.prior_layers,
            embedding_dim=sizes.clip_dim,
            num_embeddings=sizes.context_length,
        )
    if name == "text_proj":
        return UnCLIPTextProjModel(
            clip_extra_context_tokens=4,
            clip_embeddings_dim=sizes.clip_dim,
            time_embed_dim=4 * sizes.channels[0],
            cross_attention_dim=sizes.context_width,
        )
    if name == "decoder":
        return UNet2DConditionModel(
            sample_size=sizes.side,
            in_channels=3,
            out_channels=6,
            down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * levels),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=(*["SimpleCrossAttnUpBlock2D"] * levels, "ResnetUpsampleBlock2D"),
            block_out_channels=sizes.channels,
            layers_per_block=sizes.layers_per_block,
            cross_attention_dim=sizes.context_width,
            attention_head_dim=sizes.head_channels,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
        )
    if name in ("super_res_first", "super_res_last"):
        return UNet2DModel(
            sample_size=sizes.super_side if name == "super_res_first" else None,
            in_channels=6,
            out_channels=3,
            down_block_types=("ResnetDownsampleBlock2D",) * len(sizes.super_channels),
            up_block_types=("ResnetUpsampleBlock2D",) * len(sizes.super_channels),
            block_out_channels=sizes.super_channels,
            layers_per_block=sizes.super_layers,
            add_attention=False,
        )
    if name == "text_encoder":
        return CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=sizes.text_width,
                intermediate_size=4 * sizes.text_width,
                num_hidden_layers=sizes.text_layers,
                num_attention_heads=sizes.text_heads,
                projection_dim=sizes.clip_dim,
                max_position_embeddings=sizes.context_length,
                hidden_act="quick_gelu",
            )
        )
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=sizes.vision_width,
            intermediate_size=4 * sizes.vision_width,
            num_hidden_layers=sizes.vision_layers,
            num_attention_heads=sizes.vision_heads,
            projection_dim=sizes.clip_dim,
            patch_size=sizes.vision_patch,
            image_size=sizes.vision_side,
            hidden_act="quick_gelu",
        )
    )


def network_names(with_prior: bool, with_image_encoder: bool) -> list[str]:
    """The folder's networks: an image-variation folder has no prior, but a vision tower."""
    names = ["text_encoder", "text_proj", "decoder", "super_res_first", "super_res_last"]
    return names + ["prior"] * with_prior + ["image_encoder"] * with_image_encoder


def write_karlo_folder(
    path: Path,
    sizes: KarloSizes | None = None,
    *,
    with_prior: bool = True,
    with_image_encoder: bool = False,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    as_bin: bool = False,
    shard_size: str | None = None,
    seed: int = 0,
) -> dict[str, torch.nn.Module]:
    """Write a folder with small random weights and return the networks in it, by name, in evaluation mode.

    variant: as in `fp16` of `diffusion_pytorch_model.fp16.safetensors`. shard_size: such as "100KB"; None: one file.
    """
    sizes = sizes or KarloSizes()
    networks = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name in network_names(with_prior, with_image_encoder):
            networks[name] = _lively(build_network(name, sizes)).to(dtype).eval()
    options = {"variant": variant, "max_shard_size": shard_size or "50GB"}
    for name, network in networks.items():
        if LIBRARIES[name][0] == "diffusers":
            network.save_pretrained(path / name, safe_serialization=not as_bin, **options)
        else:
            network.save_pretrained(path / name, **options)
            if as_bin:
                _as_bin(path / name, network)
    _write_rest(path, list(networks))
    return networks


def write_full_folder(
    path: Path,
    sizes: KarloSizes = FULL,
    *,
    with_prior: bool = True,
    with_image_encoder: bool = False,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    holes: bool = False,
) -> None:
    """The same folder, at the published sizes unless told otherwise, with weights drawn and written one by one.

    holes: leave all weights zero, as holes in the files: for what reads no further than the headers.
    """
    names = network_names(with_prior, with_image_encoder)
    for index, name in enumerate(names):
        with torch.device("meta"):
            network = build_network(name, sizes)
        folder = path / name
        folder.mkdir(parents=True, exist_ok=True)
        if LIBRARIES[name][0] == "diffusers":
            network.save_config(folder)
            file = folder / "diffusion_pytorch_model.safetensors"
        else:
            network.config.architectures = [type(network).__name__]
            network.config.save_pretrained(folder)
            file = folder / "model.safetensors"
        generator = torch.Generator().manual_seed(seed * 100 + index)
        _write_tensors(file, network.state_dict().items(), dtype, None if holes else generator)
    _write_rest(path, names)


def _lively(network: torch.nn.Module) -> torch.nn.Module:
    """Weights of a scale that keeps signals alive, and no zeros: every input then shows in the output."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(_draw(name, tensor.shape, None))
    return network


def _draw(name: str, shape: torch.Size, generator: torch.Generator | None) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    if name.endswith("clip_std"):
        return 0.4 + 0.1 * noise.abs()
    if "norm" in name.split(".")[-2:][0] and name.endswith("weight"):
        return 1.0 + 0.1 * noise
    if "embedding" in name and len(shape) > 1 and "proj" not in name and "linear" not in name and "patch" not in name:
        return 0.1 * noise
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 100
    return noise * fan_in**-0.5


def _write_tensors(
    file: Path, tensors: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype, generator: torch.Generator | None
) -> None:
    kinds = {torch.bfloat16: ("BF16", 2), torch.float16: ("F16", 2), torch.float32: ("F32", 4)}
    kind, size = kinds[dtype]
    shapes = {name: tensor.shape for name, tensor in tensors if tensor.is_floating_point()}
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        start, end = end, end + size * math.prod(shape)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        if generator is None:
            out.truncate(out.tell() + end)
            return
        for name, shape in shapes.items():
            tensor = _draw(name, shape, generator).to(dtype).contiguous()
            out.write(tensor.view(-1).view(torch.uint8).numpy())


def _as_bin(folder: Path, network: torch.nn.Module) -> None:
    """transformers no longer writes pickles, but published folders hold them."""
    for path in [*folder.glob("*.safetensors"), *folder.glob("*.index*.json")]:
        path.unlink()
    torch.save(network.state_dict(), folder / "pytorch_model.bin")


def _write_rest(path: Path, names: list[str]) -> None:
    from diffusers import UnCLIPScheduler

    schedulers = [name for name in SCHEDULERS if name != "prior_scheduler" or "prior" in names]
    for name in schedulers:
        UnCLIPScheduler(**SCHEDULERS[name]).save_pretrained(path / name)
    others = ["tokenizer", *schedulers, *(["feature_extractor"] if "image_encoder" in names else [])]
    (path / "tokenizer").mkdir(exist_ok=True)
    tokens = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "!"}
    (path / "tokenizer" / "special_tokens_map.json").write_text(json.dumps(tokens))
    pipeline = "UnCLIPPipeline" if "prior" in names else "UnCLIPImageVariationPipeline"
    index = {"_class_name": pipeline, "_diffusers_version": "0.11.0.dev0"}
    index |= {name: list(LIBRARIES[name]) for name in [*names, *others]}
    (path / "model_index.json").write_text(json.dumps(index, indent=2))
    (path / "README.md").write_text(README)
