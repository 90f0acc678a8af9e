"""What a storybook picture contains: a small vector description that captions and drawings are both made from.

A tenth of the (object, colour, background) triples is held out: `sample_scene(split="train")` never yields one, in
pictures of one object, of two, or lettered; `split="heldout"` yields nothing else.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

OBJECTS = ("star", "heart", "house", "tree", "moon", "fish", "boat", "apple", "flower", "car", "mushroom", "cup")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
BACKGROUNDS = ("night sky", "blue sky", "meadow", "sea", "desert", "snow")
SIZES = ("small", "medium", "big")
POSITIONS = ("left", "right", "top", "bottom", "middle", "anywhere")
RELATIONS = ("above", "below", "left of", "right of")
WORDS = (*OBJECTS, "ipod", "pizza", "hello", "open")

WIDTHS = {"small": 0.36, "medium": 0.52, "big": 0.70}  # of the picture's side
HELD_OUT_PER_OBJECT = 5  # of 48 (colour, background) pairs: 60 of 576 triples


@dataclass(frozen=True)
class Thing:
    """One object. x, y: centre in 0..1 of the picture; width in 0..1; angle in degrees; shade -1..1."""

    kind: str
    colour: str
    size: str
    x: float
    y: float
    width: float
    angle: float = 0.0
    shade: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A picture. relation holds between things[0] and things[1]; word is lettered on a card over things[0]."""

    things: tuple[Thing, ...]
    background: str
    position: str = "anywhere"
    relation: str | None = None
    word: str | None = None
    seed: int = 0  # of the background's details

    def triples(self) -> list[tuple[str, str, str]]:
        """(object, colour, background) of every thing."""
        return [(thing.kind, thing.colour, self.background) for thing in self.things]


@lru_cache(maxsize=1)
def held_out() -> frozenset[tuple[str, str, str]]:
    """The triples no training picture shows: five per object, each of another colour and another background."""
    rng = random.Random("storybook-held-out")
    triples = set()
    for kind in OBJECTS:
        colours = rng.sample(COLOURS, HELD_OUT_PER_OBJECT)
        backgrounds = rng.sample(BACKGROUNDS, HELD_OUT_PER_OBJECT)
        triples.update(zip([kind] * HELD_OUT_PER_OBJECT, colours, backgrounds, strict=True))
    return frozenset(triples)


def sample_scene(rng: random.Random, split: str = "train", kind: str | None = None) -> Scene:
    """Draw a scene. split: "train", "heldout" or "any". kind: "one", "two", "word"; None: the training mixture."""
    if split not in ("train", "heldout", "any"):
        raise ValueError(f"storybook split {split!r} is unknown; choose train, heldout or any")
    if kind is None:
        kind = rng.choices(("one", "two", "word"), (0.72, 0.17, 0.11))[0]
    while True:
        scene = _two_things(rng) if kind == "two" else _one_thing(rng, kind == "word")
        held = [triple in held_out() for triple in scene.triples()]
        if split == "any" or (split == "train" and not any(held)) or (split == "heldout" and all(held)):
            return scene


def _thing(rng: random.Random, size: str, x: float, y: float, width: float) -> Thing:
    return Thing(
        kind=rng.choice(OBJECTS),
        colour=rng.choice(COLOURS),
        size=size,
        x=x + rng.uniform(-0.02, 0.02),
        y=y + rng.uniform(-0.02, 0.02),
        width=width * rng.uniform(0.93, 1.07),
        angle=rng.uniform(-6, 6),
        shade=rng.uniform(-1, 1),
    )


def _one_thing(rng: random.Random, lettered: bool) -> Scene:
    size = "big" if lettered else rng.choices(SIZES, (0.25, 0.45, 0.30))[0]
    position = "middle" if size == "big" else rng.choice(POSITIONS)
    free = 0.5 - WIDTHS[size] / 2 - 0.04  # how far the centre may leave the middle
    x = y = 0.5
    if position == "anywhere":
        x, y = 0.5 + rng.uniform(-free, free) * 0.7, 0.5 + rng.uniform(-free, free) * 0.7
    else:
        x += {"left": -free, "right": free}.get(position, 0.0)
        y += {"top": -free, "bottom": free}.get(position, 0.0)
    thing = _thing(rng, size, x, y, WIDTHS[size])
    word = rng.choice(WORDS) if lettered else None
    return Scene((thing,), rng.choice(BACKGROUNDS), position, None, word, rng.getrandbits(32))


def _two_things(rng: random.Random) -> Scene:
    relation = rng.choice(RELATIONS)
    low, high = 0.27, 0.73
    first, second = {
        "above": ((0.5, low), (0.5, high)),
        "below": ((0.5, high), (0.5, low)),
        "left of": ((low, 0.5), (high, 0.5)),
        "right of": ((high, 0.5), (low, 0.5)),
    }[relation]
    things = tuple(_thing(rng, "medium", *centre, 0.42) for centre in (first, second))
    return Scene(things, rng.choice(BACKGROUNDS), "anywhere", relation, None, rng.getrandbits(32))
