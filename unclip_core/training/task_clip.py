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
from .depthwise import faster_on_cpu
from .recipes import Recipe
from .sheets import grid, save_png

TRUNK = "visual.trunk."
TEXT_TOWER = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection", "logit_scale")
MAX_LOGIT_SCALE = math.log(100.0)


def shifted(pictures: Tensor, most: int, rng: random.Random) -> Tensor:
    """Every picture (B, C, H, W) moved by -most..most pixels each way, its edges mirrored into what comes free."""
    if not most:
        return pictures
    height, width = pictures.shape[-2:]
    padded = F.pad(pictures, (most,) * 4, mode="reflect")
    corners = [(rng.randint(0, 2 * most), rng.randint(0, 2 * most)) for _ in range(len(pictures))]
    return torch.stack([one[:, y : y + height, x : x + width] for one, (y, x) in zip(padded, corners, strict=True)])


def embed_captions(network: nn.Module, ids: Tensor) -> Tensor:
    """open_clip's `encode_text` of ids (B, T) with all to the right of the longest caption cut off: the same (B, D),
    since a token sees only those before it and the end token is what is pooled."""
    ends = ids.argmax(dim=1)
    length = int(ends.max()) + 1
    x = network.token_embedding(ids[:, :length]) + network.positional_embedding[:length]
    x = network.ln_final(network.transformer(x, attn_mask=network.attn_mask[:length, :length]))
    return x[torch.arange(len(ids), device=ids.device), ends] @ network.text_projection


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
        faster_on_cpu(network)
        for name, value in network.named_parameters():
            value.requires_grad_(not name.startswith(self.frozen))
        return network

    @property
    def frozen(self) -> tuple[str, ...]:
        """What the names of the weights that are kept begin with. Raises ValueError for a tower without a trunk."""
        kept = () if self.recipe.train_text else TEXT_TOWER
        if self.recipe.trunk_stages < 0:
            return kept
        if not self.config.vision.trunk:
            raise ValueError(
                f"Recipe.trunk_stages {self.recipe.trunk_stages}: CLIP {self.config.clip_id} has no trunk of stages"
            )
        return (*kept, f"{TRUNK}stem.", *(f"{TRUNK}stages.{stage}." for stage in range(self.recipe.trunk_stages)))

    def batch(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures normalised for CLIP (B, 3, H, W), ids (B, T), and (B, B) bool: whether caption j fits picture i."""
        rows = self.with_siblings(rows, rng)
        captions, fits = self.data.told(rows, rng)
        ids = torch.tensor([self.tokenizer.encode(caption) for caption in captions])
        return self.normalise(shifted(self.data.pictures(rows), self.recipe.shift, rng)), ids, fits

    def with_siblings(self, rows: list[int], rng: random.Random) -> list[int]:
        """As many rows, in groups of `recipe.siblings` that are alike: negatives that only details tell apart.

        Rows that an exchange alone tells apart come first, all of them.
        """
        if self.recipe.siblings == 1:
            return rows
        grouped: list[int] = []
        for row in rows[: -(-len(rows) // self.recipe.siblings)]:
            group = [row, *self.data.swaps(row)][: self.recipe.siblings]
            while len(group) < self.recipe.siblings:
                group.append(rng.choice(self.data.alike(row, cousins=rng.random() < self.recipe.cousins)))
            grouped += group
        return grouped[: len(rows)]

    def normalise(self, pictures: Tensor) -> Tensor:
        """-1..1 -> CLIP's mean and standard deviation."""
        mean, std = (pictures.new_tensor(v)[:, None, None] for v in (self.config.image_mean, self.config.image_std))
        return ((pictures + 1) / 2 - mean) / std

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Symmetric cross-entropy over the batch's pairs; logs the share of pictures matched to their own caption.

        A caption that is true of another picture as well is no negative of that one.
        """
        pictures, ids, fits = batch
        image = F.normalize(network.encode_image(pictures).float(), dim=-1)
        text = F.normalize(embed_captions(network, ids).float(), dim=-1)
        own = torch.arange(len(ids), device=ids.device)
        others = fits & (own[:, None] != own)
        logits = network.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp() * image @ text.T
        logits = logits.masked_fill(others, float("-inf"))
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        return loss, {"top1": round((logits.argmax(1) == own).float().mean().item(), 3)}

    def sheet(self, network: nn.Module, path: Path) -> None:
        """The similarity matrix of 64 pairs: a bright diagonal is a good CLIP."""
        batch = self.batch(first_rows(self.data, 64), random.Random(0), torch.Generator())
        pictures, ids, _ = move(batch, network.logit_scale.device)
        image = F.normalize(network.encode_image(pictures), dim=-1)
        text = F.normalize(network.encode_text(ids), dim=-1)
        similarity = (image @ text.T).clamp(0, 1)[None, :, :, None].expand(1, 64, 64, 3)
        save_png(grid(similarity.repeat_interleave(6, 1).repeat_interleave(6, 2)), path)

    def export(self, network: nn.Module, path: Path, recipe: dict[str, Any]) -> None:
        """clip.safetensors with open_clip's own names, stored as bf16: the rounded weights are every stage's CLIP."""
        save_stage(path, network.state_dict(), "clip", self.config, {"recipe": recipe}, dtype=torch.bfloat16)
