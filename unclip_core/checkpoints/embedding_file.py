"""Embeddings as files: one safetensors with the vector, the id of its CLIP, its modality and its noise level."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from ..disk import whole_file
from ..texts import shown
from ..types import Embedding
from .header import CheckpointError, guarded, read_header

KIND = "unclip-embedding"
VERSION = "1"


def save_embedding(path: str | Path, embed: Embedding) -> None:
    """Write `embed` as float32, whole or not at all."""
    path = Path(path)
    metadata = {"kind": KIND, "format_version": VERSION, "clip_id": embed.clip_id, "modality": embed.modality}
    metadata["noise_level"] = str(embed.noise_level)
    with whole_file(path) as temporary:
        temporary.write_bytes(save({"vector": embed.vector.detach().float().cpu().contiguous()}, metadata))


def load_embedding(path: str | Path) -> Embedding:
    """Read what `save_embedding` wrote. Raises CheckpointError naming the file, what is wrong with it and the fix."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no embedding {path}; Save Embedding writes one")
    metadata, tensors = read_header(path)
    if metadata.get("kind") != KIND or "vector" not in tensors:
        raise CheckpointError(f"{path} holds no embedding; choose a file that Save Embedding wrote")
    if (version := metadata.get("format_version")) != VERSION:
        raise CheckpointError(f"{path} has format version {shown(version)}, this program reads {VERSION}; update it")
    with guarded(path):
        vector = load_file(path)["vector"]
    level, modality, wrong = metadata.get("noise_level", "0"), metadata.get("modality", "image"), ""
    if vector.ndim != 2 or not vector.is_floating_point() or not torch.isfinite(vector).all():
        wrong = f"vector must be finite floats (B, D), got {vector.dtype} {tuple(vector.shape)}"
    elif not re.fullmatch("[0-9]{1,9}", level):
        wrong = f"noise_level is {shown(level)}, expected a timestep"
    elif modality not in ("image", "text"):
        wrong = f"modality is {shown(modality)}, expected image or text"
    if wrong:
        raise CheckpointError(f"{path}: {wrong}; save the embedding again")
    return Embedding(vector.float(), metadata.get("clip_id", "unknown"), modality, int(level))
