"""Training the small CLIP: the symmetric contrastive loss of Radford et al. 2021 on captioned pictures."""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.native import save_stage
from ..clip.model import build_network
from ..clip.words import WordTokenizer
from ..config import ClipConfig
from .data import Data, move
from .depthwise import faster_on_cpu
from .recipes import Recipe
from .sheets import grid, save_png
from .validation import cosine_sheet, some_rows

TRUNK = "visual.trunk."
TEXT_TOWER = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection", "logit_scale")
MAX_LOGIT_SCALE = math.log(100.0)
SHEET_ROWS = 64
RETRIEVED = 256  # held-out pairs, each picture's caption to be found among all


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
    gathers = True  # its negatives are all pairs of a step

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

    def part(self, batch: tuple[Tensor, Tensor, Tensor], rows: slice) -> tuple[Tensor, Tensor]:
        """What some rows' features are made of."""
        return batch[0][rows], batch[1][rows]

    def features(self, network: nn.Module, part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Image and text embeddings (b, D) of unit norm, and the factor of their cosines, once for each row (b,)."""
        pictures, ids = part
        image = F.normalize(network.encode_image(pictures).float(), dim=-1)
        text = F.normalize(embed_captions(network, ids).float(), dim=-1)
        return image, text, network.logit_scale.exp().float().expand(len(ids))

    def loss_of(
        self, features: Sequence[Tensor], batch: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Symmetric cross-entropy over all pairs of a step; logs the share of pictures matched to their own caption.

        A caption that is true of another picture as well is no negative of that one.
        """
        image, text, scale = features
        fits = batch[2]
        own = torch.arange(len(text), device=text.device)
        others = fits & (own[:, None] != own)
        logits = (scale.mean() * image @ text.T).masked_fill(others, float("-inf"))
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        return loss, {"top1": (logits.argmax(1) == own).float().mean()}

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """`loss_of` the features of a whole step."""
        return self.loss_of(self.features(network, self.part(batch, slice(None))), batch)

    def after_step(self, network: nn.Module) -> None:
        """Bound the factor of the cosines where it is stored: bounded in the loss its gradient would be 0 for good."""
        with torch.no_grad():
            network.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    def validate(self, network: nn.Module, rows: list[int], path: Path) -> dict[str, Tensor]:
        """Loss and retrieval among up to 256 pairs. The sheet: the similarities of up to 64 pairs, whose diagonal is
        bright for a good CLIP."""
        device = network.logit_scale.device
        plain = copy.copy(self)
        plain.recipe = dataclasses.replace(self.recipe, siblings=1, shift=0)
        chosen = some_rows(rows, min(len(rows), RETRIEVED))
        batch = move(plain.batch(chosen, random.Random(0), torch.Generator()), device)
        features = self.features(network, self.part(batch, slice(None)))
        loss, numbers = self.loss_of(features, batch)
        save_png(grid(cosine_sheet(*(part[:SHEET_ROWS] for part in features[:2]))), path)
        return {"loss": loss, f"top1_of_{len(chosen)}": numbers["top1"]}

    def export(self, network: nn.Module, path: Path, made_of: dict[str, Any]) -> None:
        """clip.safetensors with open_clip's own names, stored as bf16: the rounded weights are every stage's CLIP."""
        save_stage(path, network.state_dict(), "clip", self.config, made_of, dtype=torch.bfloat16)
