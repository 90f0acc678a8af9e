"""Writes folders of the unCLIP family's published members, as diffusers and transformers write them: small, with random
weights. One function per member; the layouts are those of the repositories on the hub.

`weights` says where they come from: "saved", by the libraries' own save_pretrained; "drawn", one tensor after another,
without ever holding a network; "holes", zeros that take no room on disk: for what reads no further than the headers.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

README = "---\nlicense: {}\ntags:\n- text-to-image\n---\n# A small one for tests\n"
PRIOR_SCHEDULER = {"variance_type": "fixed_small_log", "prediction_type": "sample", "clip_sample_range": 10.0}
DDPM_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "variance_type": "learned_range",
    "clip_sample": True,
    "clip_sample_range": 2.0,
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 2.0,
}
DDIM_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
# Of each network's class, the library that model_index.json names.
_LIBRARIES = {
    "CLIPTextModelWithProjection": "transformers",
    "CLIPVisionModelWithProjection": "transformers",
    "MultilingualCLIP": "kandinsky",
}


@dataclass(frozen=True)
class Sizes:
    """Sizes of a Kandinsky. vision_mlp is no multiple of the width, as bigG's is none."""

    clip_dim: int = 40
    text_width: int = 40
    text_layers: int = 2
    text_heads: int = 2
    vision_width: int = 48
    vision_layers: int = 2
    vision_heads: int = 2
    vision_mlp: int = 100
    vision_patch: int = 16
    vision_side: int = 32
    prior_heads: int = 2
    prior_head_width: int = 16
    prior_layers: int = 2
    channels: tuple[int, ...] = (32, 64, 96, 128)
    layers_per_block: int = 1
    head_channels: int = 16
    cross_width: int = 32
    side: int = 8
    movq_channels: tuple[int, ...] = (32, 32, 64, 64)
    movq_layers: int = 1
    codes: int = 16
    # XLM-R of Kandinsky 2.1, whose images embeddings are as wide as its tokens.
    words: int = 60
    own_width: int = 48
    own_layers: int = 2
    own_heads: int = 4
    own_mlp: int = 80


SMALL_2_1 = Sizes(cross_width=40)
FULL_2_2 = Sizes(
    clip_dim=1280,
    text_width=1280,
    text_layers=32,
    text_heads=20,
    vision_width=1664,
    vision_layers=48,
    vision_heads=16,
    vision_mlp=8192,
    vision_patch=14,
    vision_side=224,
    prior_heads=32,
    prior_head_width=64,
    prior_layers=20,
    channels=(384, 768, 1152, 1536),
    layers_per_block=3,
    head_channels=64,
    cross_width=768,
    side=64,
    movq_channels=(128, 256, 256, 512),
    movq_layers=2,
    codes=16384,
)
FULL_2_1 = replace(
    FULL_2_2,
    clip_dim=768,
    text_width=768,
    text_layers=12,
    text_heads=12,
    vision_width=1024,
    vision_layers=24,
    vision_mlp=4096,
    words=250002,
    own_width=1024,
    own_layers=24,
    own_heads=16,
    own_mlp=4096,
)
Networks = dict[str, torch.nn.Module]


def kandinsky_2_2(
    folder: Path, sizes: Sizes | None = None, *, decoders: tuple[str, ...] = ("",), seed: int = 0, **options
) -> dict[str, Networks]:
    """`<folder>/kandinsky-2-2-prior`, and a folder per decoder. Returns each folder's networks, in evaluation mode.

    decoders: "" is kandinsky-2-2-decoder, "inpaint" kandinsky-2-2-decoder-inpaint, "controlnet-depth"
    kandinsky-2-2-controlnet-depth. options: `weights`, and what `_save` takes.
    """
    sizes = sizes or Sizes()
    written = {"kandinsky-2-2-prior": write_prior(folder / "kandinsky-2-2-prior", sizes, seed=seed, **options)}
    names = {"": "kandinsky-2-2-decoder", "inpaint": "kandinsky-2-2-decoder-inpaint"}
    for kind in decoders:
        name = names.get(kind, f"kandinsky-2-2-{kind}")
        written[name] = write_decoder(folder / name, sizes, kind, seed=seed + 1, **options)
    return written


def kandinsky_2_1(
    folder: Path, sizes: Sizes | None = None, *, decoders: tuple[str, ...] = ("",), seed: int = 0, **options
) -> dict[str, Networks]:
    """`<folder>/kandinsky-2-1-prior` and `<folder>/kandinsky-2-1`, or with "inpaint" kandinsky-2-1-inpaint."""
    sizes = sizes or SMALL_2_1
    name = "kandinsky-2-1-prior"
    options |= {"seed": seed}
    kind = ("KandinskyPriorPipeline", "quick_gelu", "<|endoftext|>")
    written = {name: write_prior(folder / name, sizes, *kind, **options)}
    for kind in decoders:
        name = f"kandinsky-2-1-{kind}".removesuffix("-")
        written[name] = write_decoder_2_1(folder / name, sizes, kind, **options | {"seed": seed + 1})
    return written


def write_prior(
    path: Path,
    sizes: Sizes | None = None,
    pipeline: str = "KandinskyV22PriorPipeline",
    activation: str = "gelu",
    padding: str = "!",
    seed: int = 0,
    **options,
) -> Networks:
    """A prior with both towers of its CLIP. options: `weights`, and what `_save` takes."""
    from diffusers import PriorTransformer, UnCLIPScheduler
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    sizes = sizes or Sizes()
    side = sizes.vision_side
    text = CLIPTextConfig(
        hidden_size=sizes.text_width,
        intermediate_size=4 * sizes.text_width,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.text_heads,
        projection_dim=sizes.clip_dim,
        hidden_act=activation,
    )
    vision = CLIPVisionConfig(
        hidden_size=sizes.vision_width,
        intermediate_size=sizes.vision_mlp,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.vision_heads,
        projection_dim=sizes.clip_dim,
        patch_size=sizes.vision_patch,
        image_size=side,
        hidden_act=activation,
    )
    makers = {
        "prior": lambda: PriorTransformer(
            num_attention_heads=sizes.prior_heads,
            attention_head_dim=sizes.prior_head_width,
            num_layers=sizes.prior_layers,
            embedding_dim=sizes.clip_dim,
        ),
        "text_encoder": lambda: CLIPTextModelWithProjection(text),
        "image_encoder": lambda: CLIPVisionModelWithProjection(vision),
    }
    networks = _save(path, makers, seed, **options)
    UnCLIPScheduler(**PRIOR_SCHEDULER).save_pretrained(path / "scheduler")
    write_tokenizer(path / "tokenizer", padding)
    CLIPImageProcessor(size={"shortest_edge": side}, crop_size=side).save_pretrained(path / "image_processor")
    others = {
        "scheduler": ["diffusers", "UnCLIPScheduler"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "image_processor": ["transformers", "CLIPImageProcessor"],
    }
    _index(path, pipeline, networks, others)
    return networks


def write_decoder(path: Path, sizes: Sizes | None = None, kind: str = "", seed: int = 1, **options) -> Networks:
    """A decoder of Kandinsky 2.2: UNet, MoVQ and scheduler. kind: "", "inpaint" or "controlnet-depth"."""
    from diffusers import DDPMScheduler

    sizes = sizes or Sizes()
    channels = {"": 4, "inpaint": 9, "controlnet-depth": 8}[kind]
    conditioning = {
        "encoder_hid_dim": sizes.clip_dim,
        "encoder_hid_dim_type": "image_proj",
        "addition_embed_type": "image_hint" if kind == "controlnet-depth" else "image",
    }
    makers = {"unet": lambda: _unet(sizes, in_channels=channels, **conditioning), "movq": lambda: _movq(sizes)}
    networks = _save(path, makers, seed, **options)
    DDPMScheduler(**DDPM_SCHEDULER).save_pretrained(path / "scheduler")
    pipelines = {"": "", "inpaint": "Inpaint", "controlnet-depth": "Controlnet"}
    _index(path, f"KandinskyV22{pipelines[kind]}Pipeline", networks, {"scheduler": ["diffusers", "DDPMScheduler"]})
    return networks


def write_decoder_2_1(path: Path, sizes: Sizes | None = None, kind: str = "", seed: int = 1, **options) -> Networks:
    """A decoder of Kandinsky 2.1, with its text encoder and tokenizer. kind: "" or "inpaint"."""
    from diffusers import DDIMScheduler, DDPMScheduler
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    sizes = sizes or SMALL_2_1
    words = MCLIPConfig(
        sizes.own_width,
        sizes.clip_dim,
        vocab_size=sizes.words,
        hidden_size=sizes.own_width,
        num_hidden_layers=sizes.own_layers,
        num_attention_heads=sizes.own_heads,
        intermediate_size=sizes.own_mlp,
        max_position_embeddings=514,
        layer_norm_eps=1e-5,
        type_vocab_size=1,
        pad_token_id=1,
    )
    conditioning = {
        "encoder_hid_dim": sizes.own_width,
        "encoder_hid_dim_type": "text_image_proj",
        "addition_embed_type": "text_image",
    }
    makers = {
        "unet": lambda: _unet(sizes, in_channels={"": 4, "inpaint": 9}[kind], **conditioning),
        "movq": lambda: _movq(sizes),
        "text_encoder": lambda: MultilingualCLIP(words),
    }
    networks = _save(path, makers, seed, **options)
    write_multilingual_tokenizer(path / "tokenizer")
    DDIMScheduler(**DDIM_SCHEDULER).save_pretrained(path / "scheduler")
    DDIMScheduler(**DDIM_SCHEDULER).save_pretrained(path / "ddim_scheduler")
    DDPMScheduler(**DDPM_SCHEDULER).save_pretrained(path / "ddpm_scheduler")
    others = {"scheduler": ["diffusers", "DDIMScheduler"], "tokenizer": ["transformers", "XLMRobertaTokenizer"]}
    _index(path, f"Kandinsky{'Inpaint' if kind else ''}Pipeline", networks, others)
    return networks


def write_multilingual_tokenizer(path: Path) -> None:
    """XLM-R's kind of tokenizer with a few pieces of words: the alphabet, some words, some Cyrillic."""
    from transformers import XLMRobertaTokenizer

    letters = "abcdefghijklmnopqrstuvwxyzабвкорст"
    pieces = [
        "\N{LOWER ONE EIGHTH BLOCK}",
        *letters,
        *(f"\N{LOWER ONE EIGHTH BLOCK}{word}" for word in ("a", "red", "star", "кот")),
    ]
    specials = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    words = [(piece, -1.0 - 0.1 * index) for index, piece in enumerate(pieces)]
    XLMRobertaTokenizer(vocab=[*specials, *words, ("<mask>", 0.0)]).save_pretrained(path)


def eclipse_prior(path: Path, sizes: Sizes | None = None, dim: int = 0, seed: int = 2, **options) -> torch.nn.Module:
    """ECLIPSE's prior, alone in its folder: a PriorTransformer without time. dim: of its CLIP, if not that of `sizes`.

    Its config has what their class has: no time_embed_act_fn and no time_embed_dim.
    """
    from diffusers import PriorTransformer

    sizes = sizes or Sizes()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = PriorTransformer(
            num_attention_heads=sizes.prior_heads,
            attention_head_dim=sizes.prior_head_width,
            num_layers=sizes.prior_layers,
            embedding_dim=dim or sizes.clip_dim,
            additional_embeddings=3,
        )
        del network.time_embedding
        lively(network).eval().save_pretrained(path, **options)
    config = json.loads((path / "config.json").read_text())
    _settings(path / "config.json", **{key: value for key, value in config.items() if not key.startswith("time_")})
    (path / "README.md").write_text(README.format("mit"))
    return network


def write_tokenizer(path: Path, padding: str = "!") -> None:
    """CLIP's byte pairs as transformers' files, from open_clip's. padding: the token that fills captions up."""
    import open_clip

    pairs = open_clip.get_tokenizer("ViT-L-14")
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    _settings(path / "vocab.json", **{special.get(token, token): index for token, index in pairs.encoder.items()})
    merges = "\n".join(" ".join(pair) for pair in pairs.bpe_ranks)
    (path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    tokens = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    _settings(path / "special_tokens_map.json", **tokens, pad_token=padding)
    _settings(
        path / "tokenizer_config.json",
        **tokens,
        pad_token=padding,
        model_max_length=77,
        tokenizer_class="CLIPTokenizer",
    )


def _unet(sizes: Sizes, **options) -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=sizes.side,
        out_channels=8,
        down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
        block_out_channels=sizes.channels,
        layers_per_block=sizes.layers_per_block,
        attention_head_dim=sizes.head_channels,
        cross_attention_dim=sizes.cross_width,
        resnet_time_scale_shift="scale_shift",
        **options,
    )


def _movq(sizes: Sizes) -> torch.nn.Module:
    from diffusers import VQModel

    return VQModel(
        latent_channels=4,
        block_out_channels=sizes.movq_channels,
        layers_per_block=sizes.movq_layers,
        num_vq_embeddings=sizes.codes,
        vq_embed_dim=4,
        norm_type="spatial",
        down_block_types=(*["DownEncoderBlock2D"] * 3, "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * 3),
    )


def lively(network: torch.nn.Module) -> torch.nn.Module:
    """Weights of a scale that keeps signals alive, and no zeros: every input then shows in the output."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(_draw(name, tensor.shape))
    return network


def _draw(name: str, shape: torch.Size) -> torch.Tensor:
    noise = torch.randn(shape)
    if name == "clip_std":
        return 0.4 + 0.1 * noise.abs()
    parts = name.split(".")
    if name.endswith("weight") and len(shape) == 1:  # of norms
        return 1.0 + 0.1 * noise
    if "conv_y" in parts:  # MoVQ's: what its norms are multiplied by
        return 1.0 + 0.1 * noise if parts[-1] == "bias" else 0.1 * noise
    if any(part.endswith("embedding") for part in parts) and len(shape) > 1 and "linear" not in name:
        return 0.1 * noise
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 100
    return noise * fan_in**-0.5


def _save(
    path: Path,
    makers: dict[str, Callable[[], torch.nn.Module]],
    seed: int,
    weights: str = "saved",
    dtype: torch.dtype = torch.float32,
    **options,
) -> Networks:
    """Networks in folders of their names. options: of save_pretrained, as variant or max_shard_size. Those whose
    weights are not "saved" are on the meta device."""
    networks = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, make in makers.items():
            if weights == "saved":
                network = lively(make()).to(dtype).eval()
                network.save_pretrained(path / name, **options)
            else:
                with torch.device("meta"):
                    network = make()
                _write(path / name, network, dtype, holes=weights == "holes")
            networks[name] = network
    return networks


def _write(folder: Path, network: torch.nn.Module, dtype: torch.dtype, holes: bool) -> None:
    """What save_pretrained writes, one tensor after another."""
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(network, "save_config"):
        network.save_config(folder)
        file = folder / "diffusion_pytorch_model.safetensors"
    else:
        network.config.architectures = [type(network).__name__]
        network.config.save_pretrained(folder)
        file = folder / "model.safetensors"
    kind, size = {torch.bfloat16: ("BF16", 2), torch.float16: ("F16", 2), torch.float32: ("F32", 4)}[dtype]
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        start, end = end, end + size * math.prod(shape)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        if holes:
            out.truncate(out.tell() + end)
            return
        for name, shape in shapes.items():
            out.write(_draw(name, shape).to(dtype).contiguous().view(-1).view(torch.uint8).numpy())


def _settings(path: Path, /, **values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def _index(
    path: Path, pipeline: str, networks: Networks, others: dict[str, list[str]], licence: str = "apache-2.0"
) -> None:
    named = {name: type(network).__name__ for name, network in networks.items()}
    listed = {name: [_LIBRARIES.get(kind, "diffusers"), kind] for name, kind in named.items()}
    _settings(path / "model_index.json", _class_name=pipeline, _diffusers_version="0.18.0.dev0", **listed, **others)
    (path / "README.md").write_text(README.format(licence))
