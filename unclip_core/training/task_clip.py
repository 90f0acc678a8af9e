"""Training the small CLIP: the symmetric contrastive loss of Radford et al. 2021 on captioned pictures."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.native import save_stage
from ..clip.model import build_network
from ..clip.words import WordTokenizer
from ..config import ClipConfig
from .data import Data, first_rows, move
from .recipes import Recipe
from .sheets import grid, save_png

MAX_LOGIT_SCALE = math.log(100.0)


def shifted(pictures: Tensor, most: int, rng: random.Random) -> Tensor:
    """Every picture (B, C, H, W) moved by -most..most pixels each way, its edges mirrored into what comes free."""
    if not most:
        return pictures
    height, width = pictures.shape[-2:]
    padded = F.pad(pictures, (most,) * 4, mode="reflect")
    corners = [(rng.randint(0, 2 * most), rng.randint(0, 2 * most)) for _ in range(len(pictures))]
    return torch.stack([one[:, y : y + height, x : x + width] for one, (y, x) in zip(padded, corners, strict=True)])


class ClipTask:
    """Contrastive pre-training on `data` with the towers and vocabulary of `config`."""

    stage = "clip"

    def __init__(self, config: ClipConfig, data: Data, recipe: Recipe) -> None:
        self.config, self.data, self.recipe = config, data, recipe
        self.tokenizer = WordTokenizer.of(config)

    def build(self) -> nn.Module:
        """The open_clip model with fresh weights."""
        torch.manual_seed(0)
        network = build_network(self.config)
        if not self.recipe.train_text:
            for name, value in network.named_parameters():
                value.requires_grad_(name.startswith("visual."))
        return network

    def batch(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pictures normalised for CLIP (B, 3, H, W), ids (B, T)."""
        rows = self.with_siblings(rows, rng)
        ids = torch.tensor([self.tokenizer.encode(caption) for caption in self.data.captions(rows, rng)])
        return self.normalise(shifted(self.data.pictures(rows), self.recipe.shift, rng)), ids

    def with_siblings(self, rows: list[int], rng: random.Random) -> list[int]:
        """As many rows, in groups of `recipe.siblings` that are alike: negatives that only details tell apart."""
        if self.recipe.siblings == 1:
            return rows
        grouped: list[int] = []
        for row in rows[: -(-len(rows) // self.recipe.siblings)]:
            grouped.append(row)
            for _ in range(self.recipe.siblings - 1):
                grouped.append(rng.choice(self.data.alike(row, cousins=rng.random() < self.recipe.cousins)))
        return grouped[: len(rows)]

    def normalise(self, pictures: Tensor) -> Tensor:
        """-1..1 -> CLIP's mean and standard deviation."""
        mean, std = (pictures.new_tensor(v)[:, None, None] for v in (self.config.image_mean, self.config.image_std))
        return ((pictures + 1) / 2 - mean) / std

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Symmetric cross-entropy over the batch's pairs; logs the share of pictures matched to their own caption."""
        pictures, ids = batch
        image = F.normalize(network.encode_image(pictures).float(), dim=-1)
        text = F.normalize(network.encode_text(ids).float(), dim=-1)
        logits = network.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp() * image @ text.T
        own = torch.arange(len(ids), device=ids.device)
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        return loss, {"top1": round((logits.argmax(1) == own).float().mean().item(), 3)}

    def sheet(self, network: nn.Module, path: Path) -> None:
        """The similarity matrix of 64 pairs: a bright diagonal is a good CLIP."""
        batch = self.batch(first_rows(self.data, 64), random.Random(0), torch.Generator())
        pictures, ids = move(batch, network.logit_scale.device)
        image = F.normalize(network.encode_image(pictures), dim=-1)
        text = F.normalize(network.encode_text(ids), dim=-1)
        similarity = (image @ text.T).clamp(0, 1)[None, :, :, None].expand(1, 64, 64, 3)
        save_png(grid(similarity.repeat_interleave(6, 1).repeat_interleave(6, 2)), path)

    def export(self, network: nn.Module, path: Path, recipe: dict[str, Any]) -> None:
        """clip.safetensors with open_clip's own names, stored as bf16: the rounded weights are every stage's CLIP."""
        save_stage(path, network.state_dict(), "clip", self.config, {"recipe": recipe}, dtype=torch.bfloat16)
