"""The edits that the experiment on text diffs asks for: a scene, the captions before and after, what must change."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...storybook.captions import BACKGROUND_PHRASES, POSITION_PHRASES
from ...storybook.scenes import BACKGROUNDS, COLOURS, OBJECTS, WORDS, Scene
from ..reader import truth_of

KINDS = ("colour", "object", "background", "size", "word", "position")
AIMED = KINDS[:3]  # the kinds whose mean has a target
KEPT = ("object", "colour", "background")  # what must stay, but for what the edit names


@dataclass(frozen=True)
class Edit:
    """before, after: captions. attribute: what must change. wanted: into what; "any" word but none will do for an
    added one, whose letters are reported apart."""

    scene: Scene
    before: str
    after: str
    attribute: str
    wanted: str

    def done(self, seen: dict[str, Any]) -> bool:
        """Whether a reading, or a verdict, shows the change and nothing else of KEPT changed."""
        return self.changed(seen) and self.others_stay(seen)

    def changed(self, seen: dict[str, Any]) -> bool:
        """Whether the named attribute is what was asked for."""
        if self.attribute == "word" and self.wanted != "none":
            return seen["word"] != "none"
        return seen[self.attribute] == self.wanted

    def others_stay(self, seen: dict[str, Any]) -> bool:
        """Whether object, colour and background, as far as not asked for, are the scene's."""
        truth = truth_of(self.scene)
        return all(seen[name] == truth[name] for name in KEPT if name != self.attribute)


def edits_of(kind: str, count: int, scenes: Callable[[int, str, int], Sequence[Scene]]) -> list[Edit]:
    """`count` edits of a kind, the same for the same `scenes`: a function of (count, storybook kind, offset)."""
    if kind not in KINDS:
        raise ValueError(f"text diff: kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    rng, offset = random.Random(f"edits/{kind}"), 10 + KINDS.index(kind)
    if kind == "word":  # added to every other picture, removed from the others
        plain = [s for s in scenes(20 * count, "one", offset) if s.things[0].size == "big"]
        lettered = scenes(count, "word", offset)
        return [_word_edit(plain[i] if i % 2 == 0 else lettered[i], rng) for i in range(count)]
    fits = {
        "size": lambda scene: scene.things[0].size in ("small", "big"),
        "position": lambda scene: scene.things[0].size == "small",
    }.get(kind, lambda scene: True)
    found = [scene for scene in scenes(20 * count, "one", offset) if fits(scene)][:count]
    make = {"size": _size_edit, "position": _position_edit}.get(kind)
    return [make(scene, rng) if make else _attribute_edit(scene, kind, rng) for scene in found]


def plain_caption(object: str, colour: str, background: str, *, size: str = "", tail: str = "") -> str:
    """A caption in one wording, so that two differ in nothing but what an edit names."""
    noun = " ".join(filter(None, (size, colour, object)))
    article = "an" if noun[0] in "aeiou" else "a"
    return " ".join(filter(None, (article, noun, tail, BACKGROUND_PHRASES[background][0])))


def _attribute_edit(scene: Scene, kind: str, rng: random.Random) -> Edit:
    names = {"object": OBJECTS, "colour": COLOURS, "background": BACKGROUNDS}[kind]
    own = _own(scene)
    wanted = rng.choice([name for name in names if name != own[kind]])
    return Edit(scene, plain_caption(**own), plain_caption(**{**own, kind: wanted}), kind, wanted)


def _size_edit(scene: Scene, rng: random.Random) -> Edit:
    size, own = scene.things[0].size, _own(scene)
    wanted = {"small": "big", "big": "small"}[size]
    return Edit(scene, plain_caption(**own, size=size), plain_caption(**own, size=wanted), "size", wanted)


def _word_edit(scene: Scene, rng: random.Random) -> Edit:
    own = _own(scene)
    word = scene.word or rng.choice(WORDS)
    bare, lettered = plain_caption(**own), plain_caption(**own, tail=f'with the word "{word}" on it')
    if scene.word:
        return Edit(scene, lettered, bare, "word", "none")
    return Edit(scene, bare, lettered, "word", word)


def _position_edit(scene: Scene, rng: random.Random) -> Edit:
    own, here = _own(scene), truth_of(scene)["position"]
    wanted = rng.choice([side for side in ("left", "right", "top", "bottom") if side != here])
    before, after = (f"{plain_caption(**own)} {POSITION_PHRASES[side][0]}" for side in (here, wanted))
    return Edit(scene, before, after, "position", wanted)


def _own(scene: Scene) -> dict[str, str]:
    thing = scene.things[0]
    return {"object": thing.kind, "colour": thing.colour, "background": scene.background}
