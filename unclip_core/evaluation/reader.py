"""The reader: a second judge, which also reads lettered words and sees how large an object is and where."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..storybook.scenes import WIDTHS, WORDS, Scene
from ..storybook.shards import draw_many, make_scenes
from ..training.data import to_model
from ..training.loop import Progress
from ..training.recipes import Recipe
from ..training.sheets import grid, save_png
from ..types import model_to_image
from .judge import HEADS, Judge, JudgeTask, classes_of, trained

READS = {**HEADS, "word": WORDS}
READER_RECIPE = Recipe(steps=1500, batch=128, lr=1e-3, warmup=100, weight_decay=0.05, ema=0.99, seed=8, pictures=30_000)
MARGIN = 0.04  # what the renderer leaves between an object and the picture's edge


class Reader(Judge):
    """(B, 3, 64, 64) in -1..1 -> logits of object, colour, background and word, the last class of each being none;
    and "place": x, y of the object's centre and its width, each in 0..1."""

    stage = "reader"

    def __init__(self) -> None:
        super().__init__(READS)
        self.place = nn.Linear(256, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits (B, classes + 1) by head, and "place" (B, 3)."""
        x = F.dropout(self.features(x), 0.2, self.training)
        return {name: head(x) for name, head in self.heads.items()} | {"place": self.place(x)}


class ReaderTask(JudgeTask):
    """Trains the reader on renders of one object, half of them lettered, none with a held-out triple."""

    stage = "reader"

    def __init__(self, recipe: Recipe) -> None:
        half = recipe.pictures // 2
        self.scenes = make_scenes(half, recipe.seed, kind="one") + make_scenes(half, recipe.seed, kind="word")
        self.drawn = draw_many(self.scenes, workers=os.cpu_count() or 1)

    def __len__(self) -> int:
        return len(self.scenes)

    def build(self) -> nn.Module:
        """Fresh weights."""
        torch.manual_seed(0)
        return Reader()

    def batch(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> dict[str, Any]:
        """Pictures, slightly noisy, with classes by head and places."""
        scenes = [self.scenes[row] for row in rows]
        pictures = to_model(self.drawn[rows])
        labels = {name: torch.tensor([classes_of(scene)[name] for scene in scenes]) for name in HEADS}
        words = [WORDS.index(scene.word) if scene.word else len(WORDS) for scene in scenes]
        things = [scene.things[0] for scene in scenes]
        return {
            "pictures": pictures + 0.03 * torch.randn(pictures.shape, generator=generator),
            "labels": {**labels, "word": torch.tensor(words)},
            "place": torch.tensor([(thing.x, thing.y, thing.width) for thing in things]),
        }

    def loss(self, network: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropies, and the square error of places in tenths of the side; logs the share of words right."""
        found, labels = network(batch["pictures"]), batch["labels"]
        loss = sum(F.cross_entropy(found[name].float(), labels[name]) for name in READS)
        loss = loss + 100.0 * F.mse_loss(found["place"].float(), batch["place"])
        right = (found["word"].argmax(1) == labels["word"]).float().mean().item()
        return loss, {"words": round(right, 3)}

    def sheet(self, network: nn.Module, path: Path) -> None:
        """What a batch looks like."""
        rows = [row * len(self) // 64 for row in range(64)]
        batch = self.batch(rows, random.Random(0), torch.Generator().manual_seed(0))
        save_png(grid(model_to_image(batch["pictures"])), path)


def trained_reader(
    folder: Path, on_progress: Callable[[Progress], None] | None = None, recipe: Recipe = READER_RECIPE
) -> Reader:
    """The reader in `folder`, trained there first if it is not yet."""
    return trained(Reader(), lambda: ReaderTask(recipe), folder, on_progress, recipe)


@torch.no_grad()
def readings(reader: Reader, pictures: Tensor) -> list[dict[str, Any]]:
    """What the reader sees in IMAGE (B, 64, 64, 3): object, colour, background and word by name ("none" for none),
    place (x, y, width), size and position as `size_of` and `position_of` name them."""
    found = [reader(part.movedim(-1, 1) * 2 - 1) for part in pictures.split(256)]
    places = torch.cat([logits["place"] for logits in found]).tolist()
    picks = {name: torch.cat([logits[name].argmax(1) for logits in found]).tolist() for name in READS}
    names = {name: (*classes, "none") for name, classes in READS.items()}
    return [
        {name: names[name][picks[name][row]] for name in READS}
        | {"place": tuple(place), "size": size_of(place[2]), "position": position_of(*place)}
        for row, place in enumerate(places)
    ]


def size_of(width: float) -> str:
    """The size whose width is nearest."""
    return min(WIDTHS, key=lambda name: abs(WIDTHS[name] - width))


def position_of(x: float, y: float, width: float) -> str:
    """Where an object stands: at the side that its centre has covered half the way to, else "middle"."""
    free = max(0.5 - width / 2 - MARGIN, 1e-6)
    across, down = (x - 0.5) / free, (y - 0.5) / free
    if max(abs(across), abs(down)) < 0.5:
        return "middle"
    if abs(across) >= abs(down):
        return "right" if across > 0 else "left"
    return "bottom" if down > 0 else "top"


def truth_of(scene: Scene) -> dict[str, str]:
    """What an ideal judge and reader would say of a scene's first thing."""
    thing = scene.things[0]
    return {
        "object": thing.kind,
        "colour": thing.colour,
        "background": scene.background,
        "word": scene.word or "none",
        "size": thing.size,
        "position": position_of(thing.x, thing.y, thing.width),
    }
