"""What a storybook picture contains: a small vector description that captions and drawings are both made from.

A tenth of the (object, colour, background) triples is held out: `sample_scene(split="train")` never yields one, in
pictures of one object, of two, or lettered; `split="heldout"` yields nothing else.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import lru_cache

OBJECTS = ("star", "heart", "house", "tree", "moon", "fish", "boat", "apple", "flower", "car", "mushroom", "cup")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
BACKGROUNDS = ("night sky", "blue sky", "meadow", "sea", "desert", "snow")
SIZES = ("small", "medium", "big")
POSITIONS = ("left", "right", "top", "bottom", "middle", "anywhere")
RELATIONS = ("above", "below", "left of", "right of")
OPPOSITE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
SWAPS = ("colours", "objects", "relation")  # what two scenes of two things may differ by, exchanged
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


def swapped(scene: Scene, what: str, rng: random.Random) -> Scene:
    """A scene of the same two things with their `what` exchanged (one of SWAPS), drawn anew by `rng` in all the rest.

    "colours" and "objects" change which thing has which, "relation" where both stand: any two of the exchanges
    together are the third. Raises ValueError for another exchange or a scene of one thing.
    """
    if what not in SWAPS or scene.relation is None:
        raise ValueError(f"storybook swap {what!r} of {len(scene.things)} thing(s): choose of two, {', '.join(SWAPS)}")
    kinds = [thing.kind for thing in scene.things]
    colours = [thing.colour for thing in scene.things]
    if what == "colours":
        colours.reverse()
    elif what == "objects":
        kinds.reverse()
    relation = OPPOSITE[scene.relation] if what == "relation" else scene.relation
    things = tuple(
        replace(thing, kind=kind, colour=colour)
        for thing, kind, colour in zip(_pair(rng, relation), kinds, colours, strict=True)
    )
    return replace(scene, things=things, relation=relation, seed=rng.getrandbits(32))


def swap_group(rng: random.Random, kind: str) -> list[Scene]:
    """A training scene and those that differ from it by an exchange alone, none of them with a held-out triple.

    kind "two": two things with their colours, objects and relation exchanged, fewer where that changes nothing.
    "word": a lettered scene with another word, with its own word misspelt, and without a word.
    """
    if kind == "word":
        scene = sample_scene(rng, "train", "word")
        other = rng.choice([word for word in WORDS if word != scene.word])
        return [scene, *(_drawn_anew(scene, word, rng) for word in (other, misspelt(scene.word, rng), None))]
    while True:
        scene = sample_scene(rng, "train", "two")
        group, seen = [scene], {_unordered(scene)}
        for what in SWAPS:
            other = swapped(scene, what, rng)
            if _unordered(other) not in seen and not held_out().intersection(other.triples()):
                group.append(other)
                seen.add(_unordered(other))
        if len(group) > 1:
            return group


def _unordered(scene: Scene) -> frozenset:
    """What stands where, whichever is said first: "a above b" and "b below a" are one picture."""
    places = (scene.relation, OPPOSITE[scene.relation])
    return frozenset((place, thing.kind, thing.colour) for place, thing in zip(places, scene.things, strict=True))


def _drawn_anew(scene: Scene, word: str | None, rng: random.Random) -> Scene:
    """The same thing and background with another word or none, other details."""
    new = _one_thing(rng, lettered=True)
    (thing,) = scene.things
    return replace(
        new, things=(replace(new.things[0], kind=thing.kind, colour=thing.colour),), background=scene.background,
        word=word,
    )  # fmt: skip


def misspelt(word: str, rng: random.Random) -> str:
    """`word` with two neighbouring letters exchanged or one replaced; never a word of WORDS."""
    while True:
        letters = list(word)
        at = rng.randrange(len(letters) - 1)
        if rng.random() < 0.5:
            letters[at : at + 2] = letters[at + 1], letters[at]
        else:
            letters[at] = rng.choice("abcdefghijklmnopqrstuvwxyz")
        if (changed := "".join(letters)) != word and changed not in WORDS:
            return changed


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
    return Scene(_pair(rng, relation), rng.choice(BACKGROUNDS), "anywhere", relation, None, rng.getrandbits(32))


def _pair(rng: random.Random, relation: str) -> tuple[Thing, ...]:
    """Two things of which the first is `relation` the second."""
    low, high = 0.27, 0.73
    first, second = {
        "above": ((0.5, low), (0.5, high)),
        "below": ((0.5, high), (0.5, low)),
        "left of": ((low, 0.5), (high, 0.5)),
        "right of": ((high, 0.5), (low, 0.5)),
    }[relation]
    return tuple(_thing(rng, "medium", *centre, 0.42) for centre in (first, second))
