"""Training data behind one small interface: rows of pictures with captions, and high-resolution crops.

A row's content depends on its index and the given random generator only, never on what was asked before, so that
training resumes exactly. Pictures are (N, 3, H, W) float32 in -1..1.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..storybook.captions import CHINESE, caption, matches
from ..storybook.draw import render
from ..storybook.facts import facts, said_facts
from ..storybook.scenes import Scene
from ..storybook.shards import SIZE, prepare
from ..types import model_to_image

FINGERPRINT_ROWS = 64  # pictures spread over the scenes; the scenes themselves are all told apart

Tick = Callable[[str, int, int], None]  # called during a pass over data: what is done, rows so far, of how many


class Data(Protocol):
    """What a task asks of its data."""

    identity: str  # tells it from other data, wherever it lies: a run goes on with the same only
    state: str  # another one after any change of its files: caches go by it

    def __len__(self) -> int:
        """Number of rows."""

    def pictures(self, rows: list[int], side: int = 64) -> Tensor:
        """(N, 3, side, side): the middle squares of the pictures."""

    def whole(self, row: int, side: int) -> Tensor:
        """IMAGE (1, H, W, 3) in 0..1: all of the picture, of its pixels at least `side` on the short side."""

    def captions(self, rows: list[int], rng: random.Random) -> list[str]:
        """A caption for each row."""

    def all_captions(self, row: int) -> tuple[str, ...]:
        """All that is said of a row; () where nothing is."""

    def alike(self, row: int, *, cousins: bool = False) -> list[int]:
        """Rows that are hard to tell from this one, itself included; cousins: easier, of other objects too."""

    def swaps(self, row: int) -> list[int]:
        """Rows that differ from this one by an exchange alone: of two things' colours, say, or of one written word."""

    def lettered(self) -> list[int]:
        """The rows of pictures that are known to have a word written on them."""

    def captioned(self, rows: list[int], rng: random.Random) -> Captioned:
        """A caption for each row, and what is known of them."""

    def crops(self, rows: list[int], rng: random.Random, picture: int, crop: int) -> tuple[Tensor, Tensor]:
        """(N, 3, crop, crop): random windows, at multiples of 4 pixels, of the picture at `picture` px a side; and
        their corners, (N, 2) int64 as (left, top) in pixels."""


@dataclasses.dataclass(frozen=True)
class Captioned:
    """Captions of N rows, with what is known of them.

    fits: (N, N) bool, whether caption j is known to be true of picture i. seen, said: (N, facts) int64, the class of
    each of `storybook.facts.FACTS` in the picture, and in its caption; None where they are not known.
    """

    captions: list[str]
    fits: Tensor
    seen: Tensor | None = None
    said: Tensor | None = None


class Unrelated:
    """The part of Data that follows from `all_captions`, for rows that say nothing about each other but by their words.
    A row without a caption has the empty one."""

    def captions(self, rows: list[int], rng: random.Random) -> list[str]:
        return [rng.choice(found) if (found := self.all_captions(row)) else "" for row in rows]

    def alike(self, row: int, *, cousins: bool = False) -> list[int]:
        return [row]

    def swaps(self, row: int) -> list[int]:
        return []

    def lettered(self) -> list[int]:
        return []

    def captioned(self, rows: list[int], rng: random.Random) -> Captioned:
        """See Data: the same row, or the same words."""
        captions = self.captions(rows, rng)
        places: dict[str, int] = {}
        row, words = torch.tensor(rows), torch.tensor([places.setdefault(said, len(places)) for said in captions])
        return Captioned(captions, (row[:, None] == row) | (words[:, None] == words))


def to_model(pixels: np.ndarray) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in -1..1, channels last."""
    return torch.from_numpy(np.array(pixels, copy=True)).movedim(-1, 1).to(torch.float32).div_(127.5).sub_(1.0)


def move(batch: Any, device: torch.device) -> Any:
    """The batch with every tensor in it on `device`: dicts, lists, tuples and dataclasses are looked into."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {name: move(value, device) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(move(value, device) for value in batch)
    if dataclasses.is_dataclass(batch):
        return dataclasses.replace(
            batch, **{field.name: move(getattr(batch, field.name), device) for field in dataclasses.fields(batch)}
        )
    return batch


class StorybookData:
    """Rendered scenes: 64 px pictures from pre-drawn shards, crops drawn as they are asked for.

    swaps: scenes in groups that differ by an exchange alone, see `storybook.shards.make_swaps`. chinese: share of the
    captions that are Chinese.
    """

    def __init__(
        self, folder: Path, count: int, seed: int, workers: int = 1, swaps: bool = False, chinese: float = CHINESE
    ) -> None:
        self.chinese = chinese
        self.shard, self.scenes, groups = prepare(folder, count, seed, workers, swaps)
        self._alike: dict[tuple[str, ...], list[int]] = {}
        self._groups: dict[int, list[int]] = {}
        self._group_of = groups
        self._lettered = [row for row, scene in enumerate(self.scenes) if scene.word]
        for row, scene in enumerate(self.scenes):
            self._groups.setdefault(groups[row], []).append(row)
            for key in (*_likeness(scene, cousins=False), *_likeness(scene, cousins=True)):
                self._alike.setdefault(key, []).append(row)
        spread = range(0, count, max(1, count // FINGERPRINT_ROWS))
        digest = hashlib.sha256(np.ascontiguousarray(self.shard[list(spread)]).tobytes())
        digest.update("".join(map(repr, self.scenes)).encode())
        self.identity = self.state = f"storybook-{count}-{seed}-{digest.hexdigest()[:16]}"

    def __len__(self) -> int:
        return len(self.scenes)

    def pictures(self, rows: list[int], side: int = SIZE) -> Tensor:
        if side == SIZE:
            return to_model(self.shard[rows])
        return to_model(np.stack([render(self.scenes[row], side) for row in rows]))

    def whole(self, row: int, side: int) -> Tensor:
        """See Data: drawn at the size that is asked for."""
        return model_to_image(self.pictures([row], side))

    def captions(self, rows: list[int], rng: random.Random) -> list[str]:
        return [caption(self.scenes[row], rng, chinese=self.chinese)[0] for row in rows]

    def all_captions(self, row: int) -> tuple[str, ...]:
        """See Data: one of the many that there are."""
        return (caption(self.scenes[row], random.Random(row), chinese=self.chinese)[0],)

    def alike(self, row: int, *, cousins: bool = False) -> list[int]:
        """See Data: the scenes with the same colours in the same places, background and objects; for cousins, another
        object, or one of two others."""
        return [other for key in _likeness(self.scenes[row], cousins) for other in self._alike[key]]

    def swaps(self, row: int) -> list[int]:
        return [other for other in self._groups[self._group_of[row]] if other != row]

    def lettered(self) -> list[int]:
        return self._lettered

    def captioned(self, rows: list[int], rng: random.Random) -> Captioned:
        scenes = [self.scenes[row] for row in rows]
        captions, stated = zip(*(caption(scene, rng, chinese=self.chinese) for scene in scenes), strict=True)
        fits = [[matches(said, scene) for said in stated] for scene in scenes]
        said = [said_facts(scene, known) for scene, known in zip(scenes, stated, strict=True)]
        seen = torch.tensor([facts(scene) for scene in scenes])
        return Captioned(list(captions), torch.tensor(fits), seen, torch.tensor(said))

    def crops(self, rows: list[int], rng: random.Random, picture: int, crop: int) -> tuple[Tensor, Tensor]:
        cut, corners = zip(*(random_crop(self.scenes[row], rng, picture, crop) for row in rows), strict=True)
        return to_model(np.stack(cut)), torch.tensor(corners)


def _likeness(scene: Scene, cousins: bool) -> list[tuple[object, ...]]:
    """What scenes that are hard to tell apart share, and easier ones, any of these: keys of `StorybookData.alike`."""
    things = sorted(scene.things, key=lambda thing: (round(thing.x, 1), round(thing.y, 1)))  # whichever is said first
    axis = scene.relation and ("row" if scene.relation in ("left of", "right of") else "column")
    kinds = [thing.kind for thing in things]
    if not cousins:
        known = [kinds]
    elif len(kinds) == 2:
        known = [[kinds[0], None], [None, kinds[1]]]
    else:
        known = [[None]]
    return [(scene.background, axis, *(thing.colour for thing in things), *some) for some in known]


def random_crop(scene: Scene, rng: random.Random, picture: int, crop: int) -> tuple[np.ndarray, tuple[int, int]]:
    """A (crop, crop, 3) uint8 window of the scene drawn at `picture` px, and its corner (left, top), multiples of 4.

    Two thirds of the windows touch an object: empty sky teaches little.
    """
    room = (picture - crop) // 4
    if rng.random() < 2 / 3:
        thing = rng.choice(scene.things)
        reach = thing.width * 0.4
        centre = (thing.x + rng.uniform(-reach, reach), thing.y + rng.uniform(-reach, reach))
        left, top = (min(room, max(0, round((at * picture - crop / 2) / 4))) for at in centre)
    else:
        left, top = rng.randint(0, room), rng.randint(0, room)
    window = (left * 4 / picture, top * 4 / picture, crop / picture)
    return render(scene, crop, window, oversample=2), (left * 4, top * 4)
