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
from ..clip.networks import build_network
from ..clip.words import WordTokenizer
from ..config import ClipConfig
from ..storybook.facts import FACTS, UNSAID
from .data import Data, move
from .depthwise import faster_on_cpu
from .recipes import Recipe
from .sheets import grid, save_png
from .validation import cosine_sheet, some_rows

TRUNK = "visual.trunk."
TEXT_TOWER = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection", "logit_scale")
SIDES = {"image": "seen", "text": "said"}  # what facts are read off, and what is known of them
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


def facts_loss(answers: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits (B, classes of all FACTS) the mean cross-entropy over the facts that are known, (B, facts) with UNSAID
    for others, and the share of rows with all those right."""
    losses, right = [], torch.ones(len(known), dtype=torch.bool, device=known.device)
    parts = answers.split([len(classes) for classes in FACTS.values()], dim=1)
    for part, classes in zip(parts, known.unbind(1), strict=True):
        asked = classes != UNSAID
        losses.append(F.cross_entropy(part, classes, ignore_index=UNSAID, reduction="sum") / asked.sum().clamp(min=1))
        right &= (part.argmax(1) == classes) | ~asked
    return torch.stack(losses).mean(), right.float().mean()


class ClipTask:
    """Contrastive pre-training on `data` with the towers and vocabulary of `config`."""

    stage = "clip"
    gathers = True  # its negatives are all pairs of a step

    def __init__(self, config: ClipConfig, data: Data, recipe: Recipe) -> None:
        self.config, self.data, self.recipe = config, data, recipe
        self.picture_side = config.vision.image_size
        self.tokenizer = WordTokenizer.of(config)

    def build(self) -> nn.Module:
        """The open_clip model with fresh weights."""
        torch.manual_seed(0)
        network = build_network(self.config)
        faster_on_cpu(network)
        if self.recipe.readout:
            classes = sum(map(len, FACTS.values()))
            network.readout = nn.ModuleDict({side: nn.Linear(self.config.embed_dim, classes) for side in SIDES})
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

    def batch(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> dict[str, Any]:
        """Pictures normalised for CLIP (B, 3, H, W), ids (B, T), and what is known of the captions, see `Captioned`."""
        rows = self.with_siblings(rows, rng)
        told = self.data.captioned(rows, rng)
        ids = torch.tensor([self.tokenizer.encode(caption) for caption in told.captions])
        pictures = self.normalise(shifted(self.data.pictures(rows, self.picture_side), self.recipe.shift, rng))
        if self.recipe.readout and told.seen is None:
            raise ValueError("Recipe.readout: these pictures come without facts to read; only the storybook has them")
        return {"pictures": pictures, "ids": ids, "fits": told.fits, "seen": told.seen, "said": told.said}

    def with_siblings(self, rows: list[int], rng: random.Random) -> list[int]:
        """As many rows, in groups of `recipe.siblings` that are alike: negatives that only details tell apart.

        Rows that an exchange alone tells apart come first, all of them. Groups of words, `recipe.lettered` of all,
        are filled up with other words.
        """
        if self.recipe.siblings == 1:
            return rows
        lettered = self.data.lettered() if self.recipe.lettered else []
        if self.recipe.lettered and not lettered:
            raise ValueError("Recipe.lettered: none of these pictures is known to have a word on it; set it to 0")
        grouped: list[int] = []
        for row in rows[: -(-len(rows) // self.recipe.siblings)]:
            words = bool(lettered) and rng.random() < self.recipe.lettered
            row = rng.choice(lettered) if words else row
            group = [row, *self.data.swaps(row)][: self.recipe.siblings]
            while len(group) < self.recipe.siblings:
                others = lettered if words else self.data.alike(row, cousins=rng.random() < self.recipe.cousins)
                group.append(rng.choice(others))
            grouped += group
        return grouped[: len(rows)]

    def normalise(self, pictures: Tensor) -> Tensor:
        """-1..1 -> CLIP's mean and standard deviation."""
        mean, std = (pictures.new_tensor(v)[:, None, None] for v in (self.config.image_mean, self.config.image_std))
        return ((pictures + 1) / 2 - mean) / std

    def part(self, batch: dict[str, Any], rows: slice) -> tuple[Tensor, Tensor]:
        """What some rows' features are made of."""
        return batch["pictures"][rows], batch["ids"][rows]

    def features(self, network: nn.Module, part: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Image and text embeddings (b, D) of unit norm, and the factor of their cosines, once for each row (b,); with
        `recipe.readout` also what is read off the two, (b, classes of all facts) each."""
        pictures, ids = part
        image = F.normalize(network.encode_image(pictures).float(), dim=-1)
        text = F.normalize(embed_captions(network, ids).float(), dim=-1)
        factor = network.logit_scale.exp().float().expand(len(ids))
        if not self.recipe.readout:
            return image, text, factor
        scale = image.shape[1] ** 0.5  # to unit variance
        read = (network.readout[side](z * scale).float() for side, z in zip(SIDES, (image, text), strict=True))
        return image, text, factor, *read

    def loss_of(self, features: Sequence[Tensor], batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Symmetric cross-entropy over all pairs of a step; logs the share of pictures matched to their own caption.

        A caption that is true of another picture as well is no negative of that one. With `recipe.readout` a linear
        layer names the facts of a scene from its picture's embedding, and another, as far as they are said, from its
        caption's: telling captions apart needs them, but not where others find them.
        """
        image, text, scale, *read = features
        own = torch.arange(len(text), device=text.device)
        others = batch["fits"] & (own[:, None] != own)
        logits = (scale.mean() * image @ text.T).masked_fill(others, float("-inf"))
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        numbers = {"top1": (logits.argmax(1) == own).float().mean()}
        for (side, known), answers in zip(SIDES.items(), read, strict=False):  # none without a readout
            missed, numbers[side] = facts_loss(answers, batch[known])
            loss = loss + self.recipe.readout * missed / 2
        return loss, numbers

    def loss(self, network: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
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
        state = {name: value for name, value in network.state_dict().items() if not name.startswith("readout.")}
        save_stage(path, state, "clip", self.config, made_of, dtype=torch.bfloat16)
