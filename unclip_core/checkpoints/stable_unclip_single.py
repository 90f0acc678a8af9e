"""Stable unCLIP as the single file that ComfyUI uses: sd21-unclip-h and -l, .safetensors or .ckpt, no torch.

Recognised by the tensors' names; sizes are read from their shapes. What a file cannot say (schedule, sampling, the
side it was trained at, channels of a head) is the published models'. ViT-L's file has no statistics of the embeddings:
they are noised as if their mean were 0 and their deviation 1, as ComfyUI does it too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..config import (
    AutoencoderConfig,
    ClipConfig,
    ClipTextConfig,
    ClipVisionConfig,
    DecoderConfig,
    StackConfig,
    TextTowerConfig,
    UNetConfig,
)
from ..presets import STABLE_UNCLIP_H, STABLE_UNCLIP_L
from .diffusers_clip import named
from .header import (
    SINGLE_FILE_MARK,
    CheckpointError,
    StageFile,
    TensorEntry,
    WeightSet,
    is_single_file,
    read_entries,
    remembered,
    weight_set,
)
from .pickles import pickle_mentions, read_state_dict
from .stable_unclip_folder import AUTOENCODER, FILE, LAYOUT, TEXT, UNET, VISION
from .stand_ins import Listed

SUFFIXES = (".safetensors", ".ckpt")
_HEAD_CHANNELS = 64
# ViT-H's image half is the one of these whose heads are wider: channels of a head by (width, layers).
_VISION_HEADS = {(1280, 32): 80}
Shapes = Mapping[str, tuple[int, ...]]


def read_folder(folder: Path) -> tuple[dict[str, StageFile], tuple[str, ...]] | None:
    """Stages and problems of a folder with such a file; None for a folder without one."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    marked, unreadable = [], []
    for path in paths:
        try:
            if is_single_file(path) if path.suffix == ".safetensors" else _is_single_pickle(path):
                marked.append(path)
        except CheckpointError as error:
            unreadable.append(str(error))
    if len(marked) > 1:
        return {}, (f"{marked[1]}: a second Stable unCLIP beside {marked[0].name}; give each a folder of its own",)
    if marked:
        try:
            return _read(marked[0]), ()
        except CheckpointError as error:
            return {}, (str(error),)
    # A .ckpt says nothing until it is read: one that cannot be is told of where it is all there is.
    alone = unreadable and len(unreadable) == len(paths) and paths[0].suffix == ".ckpt"
    return ({}, tuple(unreadable)) if alone else None


@remembered
def _is_single_pickle(path: Path) -> bool:
    return pickle_mentions(path, SINGLE_FILE_MARK)


@remembered
def _read(path: Path) -> dict[str, StageFile]:
    """The stages of a file, shared: not to be changed."""
    tensors = read_entries(path)[1] if path.suffix == ".safetensors" else read_state_dict(path)[1]
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    clip = _clip(path, shapes)
    decoder = _decoder(path, shapes, clip)
    stages = {"clip": (clip, (VISION, TEXT)), "decoder": (decoder, (UNET, AUTOENCODER, TEXT))}
    return {
        stage: StageFile(path, stage, config, {}, LAYOUT, {FILE: (_set(path, tensors, prefixes),)})
        for stage, (config, prefixes) in stages.items()
    }


def _set(path: Path, tensors: Mapping[str, TensorEntry | Listed], prefixes: tuple[str, ...]) -> WeightSet:
    """The file, as what a stage takes of it."""
    counts: dict[str, int] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefixes):
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + math.prod(tensor.shape)
    return weight_set((path,), counts)


def _clip(path: Path, shapes: Shapes) -> ClipConfig:
    """The CLIP of the image half. Its text half is the file's, where that is of the same CLIP (ViT-H)."""
    visual = f"{VISION}visual."
    width, patch = _shape(path, shapes, f"{visual}conv1.weight", 4)[::3]
    dim = _shape(path, shapes, f"{visual}proj", 2)[1]
    pixels = _shape(path, shapes, f"{visual}positional_embedding", 2)[0] - 1
    layers = _count(shapes, f"{visual}transformer.resblocks.")
    heads = _VISION_HEADS.get((width, layers), _HEAD_CHANNELS)
    vision = ClipVisionConfig(width, layers, heads, patch, round(pixels**0.5) * patch)
    projection = shapes.get(f"{TEXT}text_projection")
    own_text = projection is not None and projection[-1] == dim
    text = None
    if own_text:
        wide = projection[0]
        text = ClipTextConfig(wide, _count(shapes, f"{TEXT}transformer.resblocks."), wide // _HEAD_CHANNELS)
    published = STABLE_UNCLIP_H.clip if own_text else STABLE_UNCLIP_L.clip
    config = replace(
        published,
        embed_dim=dim,
        text_width=text.width if text else dim,
        towers=("text", "image") if own_text else ("image",),
    )
    return named(config, text, vision, quick_gelu=not own_text)  # OpenAI's ViT-L has it, OpenCLIP's ViT-H has not


def _decoder(path: Path, shapes: Shapes, clip: ClipConfig) -> DecoderConfig:
    published: StackConfig = STABLE_UNCLIP_L if clip.quick_gelu or clip.embed_dim == 768 else STABLE_UNCLIP_H
    labels = _shape(path, shapes, SINGLE_FILE_MARK, 2)[1]
    if labels != 2 * clip.embed_dim:
        raise CheckpointError(
            f"{path}: {SINGLE_FILE_MARK} reads {labels} numbers, expected {2 * clip.embed_dim}, twice the "
            f"{clip.embed_dim} of the file's CLIP; its networks belong to different models, download it again"
        )
    tower = _text_tower(path, shapes)
    try:
        found = replace(
            published.decoder,
            clip_id=clip.clip_id,
            clip_dim=clip.embed_dim,
            text_width=tower.width,
            text_tower=tower,
            unet=_unet(path, shapes, published.decoder.unet),
            autoencoder=_autoencoder(path, shapes, published.decoder.autoencoder),
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if found == published.decoder:
        return found
    return replace(found, decoder_id=f"{clip.clip_id}/stable-{found.unet.channels}x{found.unet.depth}")


def _text_tower(path: Path, shapes: Shapes) -> TextTowerConfig:
    vocabulary, width = _shape(path, shapes, f"{TEXT}token_embedding.weight", 2)
    blocks = _count(shapes, f"{TEXT}transformer.resblocks.")
    # A whole CLIP's last block is not used.
    whole = f"{TEXT}text_projection" in shapes
    return TextTowerConfig(
        vocabulary_size=vocabulary,
        context_length=_shape(path, shapes, f"{TEXT}positional_embedding", 2)[0],
        width=width,
        depth=blocks - whole,
        heads=width // _HEAD_CHANNELS,
    )


def _unet(path: Path, shapes: Shapes, published: UNetConfig) -> UNetConfig:
    blocks = _count(shapes, f"{UNET}input_blocks.")
    downs = [index for index in range(blocks) if f"{UNET}input_blocks.{index}.0.op.weight" in shapes]
    channels, in_channels = _shape(path, shapes, f"{UNET}input_blocks.0.0.weight", 4)[:2]
    depth = (downs[0] if downs else blocks) - 1
    firsts = [f"{UNET}input_blocks.{1 + level * (depth + 1)}" for level in range(len(downs) + 1)]
    widths = [_shape(path, shapes, f"{first}.0.in_layers.2.weight", 4)[0] for first in firsts]
    attends = [level for level, first in enumerate(firsts) if f"{first}.1.norm.weight" in shapes]
    cross = f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    return replace(
        published,
        in_channels=in_channels,
        out_channels=_shape(path, shapes, f"{UNET}out.2.weight", 4)[0],
        channels=channels,
        channel_mult=tuple(width // channels for width in widths),
        depth=depth,
        attention_resolutions=tuple(published.image_size >> level for level in attends),
        context_width=_shape(path, shapes, cross, 2)[1],
    )


def _autoencoder(path: Path, shapes: Shapes, published: AutoencoderConfig) -> AutoencoderConfig:
    down = f"{AUTOENCODER}encoder.down."
    levels = range(_count(shapes, down))
    return replace(
        published,
        latent_channels=_shape(path, shapes, f"{AUTOENCODER}post_quant_conv.weight", 4)[0],
        channels=tuple(_shape(path, shapes, f"{down}{level}.block.0.conv1.weight", 4)[0] for level in levels),
        depth=_count(shapes, f"{down}0.block."),
        attention_levels=tuple(level for level in levels if f"{down}{level}.attn.0.norm.weight" in shapes),
    )


def _shape(path: Path, shapes: Shapes, name: str, dims: int) -> tuple[int, ...]:
    """A tensor's shape. Raises CheckpointError where there is no such tensor, or none of so many dimensions."""
    shape = shapes.get(name)
    if shape is None or len(shape) != dims or 0 in shape:
        found = "missing" if shape is None else f"of shape {shape}"
        raise CheckpointError(f"{path}: {name} is {found}, so this is no whole Stable unCLIP; download it again")
    return shape


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbered modules there are under a prefix."""
    rests = (name[len(prefix) :] for name in shapes if name.startswith(prefix))
    return len({rest.split(".")[0] for rest in rests})
