"""Two small decoders that only the experiment on the prior's importance needs: one that learned to read image
embeddings, one that learned to read text embeddings, alike in everything else (§5.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.loading import load_network
from ..clip.model import Clip
from ..config import DecoderConfig
from ..runtime.device import memory_format
from ..runtime.placement import Placed
from ..stages import Decoder
from ..training.data import StorybookData
from ..training.embeddings import image_embeddings
from ..training.loop import LoopOptions, Progress, train
from ..training.recipes import Recipe
from ..training.task_decoder import DecoderTask

KINDS = ("image", "text")
SIBLING_RECIPE = Recipe(
    steps=5600,
    batch=32,
    lr=1e-3,
    warmup=100,
    weight_decay=0.01,
    betas=(0.9, 0.99),
    ema=0.995,
    timesteps="logit_normal",
)


class TextEmbeddingTask(DecoderTask):
    """The decoder's training with the caption's embedding in the image embedding's place; both drops unchanged."""

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """As DecoderTask's, z being the text embedding of the row's caption."""
        batch = super().prepare(batch)
        return {**batch, "z": batch["text"].embed}


def sibling_config(config: DecoderConfig, kind: str) -> DecoderConfig:
    """The decoder at half its width, under a name of its own."""
    unet = replace(config.unet, channels=config.unet.channels // 2, norm_groups=8)
    return replace(config, decoder_id=f"{config.decoder_id}/{kind}-sibling", unet=unet)


def trained_sibling(
    kind: str,
    config: DecoderConfig,
    clip: Clip,
    data: StorybookData,
    cache: Path,
    folder: Path,
    recipe: Recipe = SIBLING_RECIPE,
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> Decoder:
    """The sibling of `config` in `folder`, trained there first if it is not yet. kind: "image" or "text"."""
    if kind not in KINDS:
        raise ValueError(f"sibling {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    own, weights = sibling_config(config, kind), folder / "decoder.safetensors"
    if not weights.exists():
        embeddings = image_embeddings(clip, data, cache / "embeddings")
        make = TextEmbeddingTask if kind == "text" else DecoderTask
        task = make(own, data, clip, embeddings, recipe)
        # A checkpoint every hundred steps, so that a kill costs seconds; sheets are for people who train.
        options = LoopOptions(device=clip.device, save_every=100, sheet_every=recipe.steps)
        for progress in train(task, recipe, folder, len(data), options=options):
            if on_progress:
                on_progress(progress)
    dtype = torch.float32
    placed = Placed(lambda read_as: load_network(weights, read_as, memory_format(clip.device)), clip.device, dtype)
    return Decoder(own, placed, lambda: clip.encode_text([""]))
