"""Embeddings as files: one safetensors with the vector, the id of its CLIP, its modality and its noise level."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..disk import whole_file
from ..types import Embedding

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
    """Read what `save_embedding` wrote. Raises ValueError naming the file and what is wrong with it."""
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != KIND or "vector" not in file.keys():  # noqa: SIM118 - not a dict
                raise ValueError(f"{path} holds no embedding; choose a file that Save Embedding wrote")
            if metadata.get("format_version") != VERSION:
                found = metadata.get("format_version")
                raise ValueError(f"{path} has format version {found!r}, this program reads {VERSION}; update it")
            vector = file.get_tensor("vector")
    except FileNotFoundError:
        raise ValueError(f"there is no embedding {path}; Save Embedding writes one") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}); save the embedding again") from None
    if vector.ndim != 2 or not vector.is_floating_point() or not torch.isfinite(vector).all():
        raise ValueError(f"{path}: vector must be finite floats (B, D), got {vector.dtype} {tuple(vector.shape)}")
    level = metadata.get("noise_level", "0")
    if not level.isdecimal():
        raise ValueError(f"{path}: noise_level is {level!r}, expected a timestep; save the embedding again")
    return Embedding(vector.float(), metadata.get("clip_id", "unknown"), metadata.get("modality", "image"), int(level))
