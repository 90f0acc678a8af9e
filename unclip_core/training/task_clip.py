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
from ..storybook.facts import FACTS, UNSAID
from .data import Data, first_rows, move
from .depthwise import faster_on_cpu
from .recipes import Recipe
from .sheets import grid, save_png

TRUNK = "visual.trunk."
TEXT_TOWER = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection", "logit_scale")
SIDES = {"image": "seen", "text": "said"}  # what facts are read off, and what is known of them
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


def read_facts(readout: nn.Linear, z: Tensor, known: Tensor) -> tuple[Tensor, float]:
    """(mean cross-entropy over the facts of FACTS that are known, share of rows with all those right)."""
    parts = readout(z * z.shape[1] ** 0.5).float().split([len(classes) for classes in FACTS.values()], dim=1)
    losses, right = [], torch.ones(len(z), dtype=torch.bool, device=z.device)
    for part, classes in zip(parts, known.unbind(1), strict=True):
        asked = classes != UNSAID
        losses.append(F.cross_entropy(part, classes, ignore_index=UNSAID, reduction="sum") / asked.sum().clamp(min=1))
        right &= (part.argmax(1) == classes) | ~asked
    return torch.stack(losses).mean(), right.float().mean().item()


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
        """Pictures normalised for CLIP (B, 3, H, W), ids (B, T), and what is known of the captions, see `Told`."""
        rows = self.with_siblings(rows, rng)
        told = self.data.told(rows, rng)
        ids = torch.tensor([self.tokenizer.encode(caption) for caption in told.captions])
        pictures = self.normalise(shifted(self.data.pictures(rows), self.recipe.shift, rng))
        if self.recipe.readout and told.seen is None:
            raise ValueError("Recipe.readout: these pictures come without facts to read; only the storybook has them")
        return {"pictures": pictures, "ids": ids, "fits": told.fits, "seen": told.seen, "said": told.said}

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

    def loss(self, network: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """Symmetric cross-entropy over the batch's pairs; logs the share of pictures matched to their own caption.

        A caption that is true of another picture as well is no negative of that one. With `recipe.readout` a linear
        layer names the facts of a scene from its picture's embedding, and another, as far as they are said, from its
        caption's: telling captions apart needs them, but not where others find them.
        """
        image = F.normalize(network.encode_image(batch["pictures"]).float(), dim=-1)
        text = F.normalize(embed_captions(network, batch["ids"]).float(), dim=-1)
        own = torch.arange(len(text), device=text.device)
        others = batch["fits"] & (own[:, None] != own)
        logits = network.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp() * image @ text.T
        logits = logits.masked_fill(others, float("-inf"))
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        numbers = {"top1": round((logits.argmax(1) == own).float().mean().item(), 3)}
        if self.recipe.readout:
            for side, z in zip(SIDES, (image, text), strict=True):
                missed, right = read_facts(network.readout[side], z, batch[SIDES[side]])
                loss = loss + self.recipe.readout * missed / 2
                numbers[side] = round(right, 3)
        return loss, numbers

    def sheet(self, network: nn.Module, path: Path) -> None:
        """The similarity matrix of 64 pairs: a bright diagonal is a good CLIP."""
        batch = self.batch(first_rows(self.data, 64), random.Random(0), torch.Generator())
        batch = move(batch, network.logit_scale.device)
        image = F.normalize(network.encode_image(batch["pictures"]), dim=-1)
        text = F.normalize(network.encode_text(batch["ids"]), dim=-1)
        similarity = (image @ text.T).clamp(0, 1)[None, :, :, None].expand(1, 64, 64, 3)
        save_png(grid(similarity.repeat_interleave(6, 1).repeat_interleave(6, 2)), path)

    def export(self, network: nn.Module, path: Path, recipe: dict[str, Any]) -> None:
        """clip.safetensors with open_clip's own names, stored as bf16: the rounded weights are every stage's CLIP."""
        state = {name: value for name, value in network.state_dict().items() if not name.startswith("readout.")}
        save_stage(path, state, "clip", self.config, {"recipe": recipe}, dtype=torch.bfloat16)
