"""CLIP's embedding of an all-zero picture, kept between runs: the null embedding of some decoders.

It is the same for the same files, but only CLIP's image tower can give it, which may be the largest network of a stack
(Kandinsky 2.2's has 1.8 billion parameters) and has no other part in going from text to picture.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from ..config import ClipConfig, to_json
from ..types import Embedding
from .header import CheckpointError, StageFile
from .native import write_safetensors

ENVIRONMENT = "UNCLIP_CACHE"
_VERSION = 1  # of what is computed

log = logging.getLogger("comfyui_unclip")


def cache_folder() -> Path:
    """Where small things are kept that can be made again: $UNCLIP_CACHE, else `unclip` in the user's cache folder."""
    if own := os.environ.get(ENVIRONMENT):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "unclip"


def remembered_null_image(clip: StageFile, encode: Callable[[], Embedding], dtype: str = "float32") -> Embedding:
    """The null embedding (1, D) of a CLIP on disk: as kept for these very files (names, sizes, times), else
    `encode()`, which is then kept. dtype: what CLIP runs in. A folder that cannot be written is no error."""
    config: ClipConfig = clip.config
    path = cache_folder() / "null_images" / f"{_key(clip, dtype)}.safetensors"
    try:
        vector = load_file(path)["vector"]
        if vector.shape == (1, config.embed_dim) and vector.isfinite().all():
            return Embedding(vector.float(), config.clip_id)
        log.info("%s is no null embedding; it is made again", path)
    except FileNotFoundError:
        pass
    except (SafetensorError, CheckpointError, OSError, KeyError) as error:
        log.info("%s cannot be read and is made again (%s)", path, error)
    log.info("the null embedding of %s is made once, by its image tower", config.clip_id)
    embed = encode()
    try:
        write_safetensors(path, {"vector": embed.vector.contiguous()}, {"clip_id": config.clip_id})
    except (SafetensorError, OSError) as error:
        log.info("the null embedding of %s is not kept: %s", config.clip_id, error)
    return embed


def _key(clip: StageFile, dtype: str) -> str:
    stats = [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(clip.all_files)]
    return hashlib.sha256(json.dumps([_VERSION, dtype, to_json(clip.config), stats]).encode()).hexdigest()
