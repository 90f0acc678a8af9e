"""The judge: a classifier of a storybook picture's object, colour and background, trained on renders alone.

It never sees CLIP, nor a held-out triple. Each head has one more class, "none of these", taught on noise, blur,
half-erased and blended renders, so that a smudge does not count as its nearest object.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..disk import whole_file
from ..storybook.draw import render
from ..storybook.scenes import BACKGROUNDS, COLOURS, OBJECTS, Scene
from ..training.data import StorybookData, to_model
from ..training.loop import Progress, Task, train
from ..training.recipes import Recipe
from ..training.sheets import grid, save_png
from ..types import model_to_image

HEADS = {"object": OBJECTS, "colour": COLOURS, "background": BACKGROUNDS}
IGNORED = -100  # cross_entropy's own: this head learns nothing from this row
SPOILT_SHARE = 0.25

JUDGE_RECIPE = Recipe(steps=1200, batch=128, lr=1e-3, warmup=100, weight_decay=0.05, ema=0.99, seed=7)


Network = TypeVar("Network", bound="Judge")


class Judge(nn.Module):
    """(B, 3, 64, 64) in -1..1 -> logits per head, the last class being "none of these". heads: names to classes."""

    stage = "judge"

    def __init__(self, heads: Mapping[str, Sequence[str]] = HEADS) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 128)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in widths[1:])
        self.hidden = nn.Linear(128 * 16, 256)
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(classes) + 1) for name, classes in heads.items()})

    def features(self, x: Tensor) -> Tensor:
        """(B, 256): what the heads read."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.silu(norm(conv(x)))
        return F.silu(self.hidden(x.flatten(1)))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits (B, classes + 1) by head."""
        x = F.dropout(self.features(x), 0.2, self.training)
        return {name: head(x) for name, head in self.heads.items()}


class JudgeTask:
    """Trains the judge on one-object renders, shifted and zoomed, a quarter of them spoilt."""

    stage = "judge"

    def __init__(self, data: StorybookData) -> None:
        self.data = data
        self.rows = [i for i, s in enumerate(data.scenes) if len(s.things) == 1 and s.word is None]

    def __len__(self) -> int:
        return len(self.rows)

    def build(self) -> nn.Module:
        """Fresh weights."""
        torch.manual_seed(0)
        return Judge()

    def batch(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> dict[str, Any]:
        """Pictures and their classes by head."""
        rows = [self.rows[row] for row in rows]
        scenes = [self.data.scenes[row] for row in rows]
        pictures = self.data.pictures(rows)
        labels = {name: torch.tensor([classes_of(s)[name] for s in scenes]) for name in HEADS}
        for index in range(len(rows)):
            if rng.random() < SPOILT_SHARE:
                self._spoil(index, rows, pictures, labels, rng, generator)
            elif rng.random() < 0.4:
                pictures[index] = zoom(scenes[index], rng)
        return {"pictures": pictures + 0.03 * torch.randn(pictures.shape, generator=generator), "labels": labels}

    def _spoil(self, index, rows, pictures, labels, rng, generator) -> None:
        """Turn one row of a batch into an example of "none of these"; rows: the data rows of the batch."""
        scene = self.data.scenes[rows[index]]
        kind = rng.choice(("noise", "blur", "erased", "blended"))
        if kind == "noise":
            size = rng.choice((4, 8, 16, 64))
            noise = torch.randn(1, 3, size, size, generator=generator)
            noise = F.interpolate(noise, 64, mode="bicubic", align_corners=False)[0].clamp(-1, 1)
            pictures[index] = torch.lerp(pictures[index], noise, rng.uniform(0.75, 1.0))
        elif kind == "blur":
            small = F.adaptive_avg_pool2d(pictures[index][None], rng.choice((2, 4, 6)))
            pictures[index] = F.interpolate(small, 64, mode="bilinear", align_corners=False)[0]
        elif kind == "erased":
            pictures[index] = half_erased(scene, rng)
            labels["object"][index] = len(OBJECTS)
            labels["colour"][index] = IGNORED
            return
        else:
            other = rng.choice(rows)
            if self.data.scenes[other].triples() == scene.triples():
                return
            pictures[index] = torch.lerp(pictures[index], self.data.pictures([other])[0], rng.uniform(0.4, 0.6))
        for name, classes in HEADS.items():
            labels[name][index] = len(classes)

    def loss(self, network: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """Sum of the heads' cross-entropies; logs the share of rows right in every head."""
        logits, labels = network(batch["pictures"]), batch["labels"]
        loss = sum(F.cross_entropy(logits[name].float(), labels[name]) for name in HEADS)
        right = torch.stack([(logits[n].argmax(1) == labels[n]) | (labels[n] == IGNORED) for n in HEADS]).all(0)
        return loss, {"right": round(right.float().mean().item(), 3)}

    def sheet(self, network: nn.Module, path: Path) -> None:
        """What a batch looks like, spoilt rows included."""
        rows = [row % len(self) for row in range(64)]
        batch = self.batch(rows, random.Random(0), torch.Generator().manual_seed(0))
        save_png(grid(model_to_image(batch["pictures"])), path)

    def export(self, network: nn.Module, path: Path, recipe: dict[str, Any]) -> None:
        """The weights, whole or not at all: the file's presence says that the judge is trained."""
        with whole_file(path, durable=True) as temporary:
            save_file({k: v.contiguous() for k, v in network.state_dict().items()}, temporary)


def classes_of(scene: Scene) -> dict[str, int]:
    """Class indices of a scene's first thing and background."""
    thing = scene.things[0]
    return {
        "object": OBJECTS.index(thing.kind),
        "colour": COLOURS.index(thing.colour),
        "background": BACKGROUNDS.index(scene.background),
    }


def zoom(scene: Scene, rng: random.Random) -> Tensor:
    """The scene seen through a smaller window that holds its object whole: (3, 64, 64)."""
    thing = scene.things[0]
    side = rng.uniform(max(0.5, thing.width * 1.15), 1.0)
    left, top = (
        rng.uniform(max(0.0, min(at + thing.width / 2 - side, 1 - side)), min(1 - side, max(0.0, at - thing.width / 2)))
        for at in (thing.x, thing.y)
    )
    return to_model(render(scene, 64, (left, top, side))[None])[0]


def half_erased(scene: Scene, rng: random.Random) -> Tensor:
    """The scene with half of its object (40 to 60 % of its pixels) painted over by its background: (3, 64, 64)."""
    whole, bare = render(scene, 64), render(dataclasses.replace(scene, things=()), 64)
    ys, xs = np.mgrid[0:64, 0:64]
    turn = rng.uniform(0, 2 * np.pi)
    across = np.cos(turn) * xs + np.sin(turn) * ys
    # Cut by pixels, not through the middle of its box: a crescent lies beside the middle.
    cut = np.quantile(across[(whole != bare).any(-1)], rng.uniform(0.4, 0.6))
    return to_model(np.where((across > cut)[..., None], bare, whole)[None])[0]


def trained_judge(folder: Path, data: StorybookData, on_progress=None, recipe: Recipe = JUDGE_RECIPE) -> Judge:
    """The judge in `folder`, trained there first if it is not yet. on_progress gets the loop's Progress."""
    return trained(Judge(), lambda: JudgeTask(data), folder, on_progress, recipe)


def trained(network: Network, make_task: Callable[[], Task], folder: Path, on_progress, recipe: Recipe) -> Network:
    """`network` with the weights in `folder`, trained there first if they are not yet; in evaluation mode."""
    weights = folder / f"{network.stage}.safetensors"
    if not weights.exists():
        task = make_task()
        progress: Progress
        for progress in train(task, recipe, folder, len(task)):
            if on_progress:
                on_progress(progress)
    network.load_state_dict(load_file(weights))
    return network.eval().requires_grad_(False)


@torch.no_grad()
def features_of(judge: Judge, pictures: Tensor) -> Tensor:
    """(B, 256) float32 of IMAGE (B, 64, 64, 3), in chunks."""
    return torch.cat([judge.features(part.movedim(-1, 1) * 2 - 1) for part in pictures.split(256)])


@torch.no_grad()
def verdicts(judge: Judge, pictures: Tensor) -> list[dict[str, str]]:
    """What the judge sees in IMAGE (B, 64, 64, 3): a name per head, "none" for none of these."""
    logits = judge(pictures.movedim(-1, 1) * 2 - 1)
    names = {head: (*classes, "none") for head, classes in HEADS.items()}
    picks = {head: values.argmax(1).tolist() for head, values in logits.items()}
    return [{head: names[head][picks[head][i]] for head in HEADS} for i in range(len(pictures))]


def two_halves(pictures: Tensor, relation: str) -> tuple[Tensor, Tensor]:
    """The windows of a two-object picture (B, 64, 64, 3) around its first and second object, enlarged to 64 px."""
    low, high, mid = slice(0, 35), slice(29, 64), slice(14, 50)
    rows = {"above": (low, high), "below": (high, low)}.get(relation, (mid, mid))
    columns = {"left of": (low, high), "right of": (high, low)}.get(relation, (mid, mid))
    halves = [pictures[:, r, c].movedim(-1, 1) for r, c in zip(rows, columns, strict=True)]
    first, second = (F.interpolate(h, (64, 64), mode="bicubic", align_corners=False).clamp(0, 1) for h in halves)
    return first.movedim(1, -1), second.movedim(1, -1)
