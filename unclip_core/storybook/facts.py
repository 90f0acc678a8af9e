"""What a scene is, and what a caption says of it, as classes: for what reads them off an embedding.

The heads of a scene of two things go from the top down or from left to right, whichever thing is said first.
"""

from __future__ import annotations

from .captions import Stated
from .scenes import BACKGROUNDS, COLOURS, OBJECTS, WORDS, Scene

UNSAID = -100  # cross_entropy's own: nothing is asked of this head
NONE = "none"
# One thing has no other kind or colour and its axis is "one"; a word that is none of WORDS is "another".
FACTS: dict[str, tuple[str, ...]] = {
    "kind": OBJECTS,
    "colour": COLOURS,
    "other kind": (*OBJECTS, NONE),
    "other colour": (*COLOURS, NONE),
    "axis": ("column", "row", "one"),
    "background": BACKGROUNDS,
    "word": (*WORDS, "another", NONE),
}


def placed(scene: Scene) -> tuple[int, ...]:
    """The scene's things, by number, from the top down or from left to right."""
    return (1, 0) if scene.relation in ("below", "right of") else tuple(range(len(scene.things)))


def facts(scene: Scene) -> list[int]:
    """The class of each of FACTS."""
    return _classes(scene, [(thing.kind, thing.colour) for thing in scene.things], scene.background, scene.word or NONE)


def said_facts(scene: Scene, stated: Stated) -> list[int]:
    """The same of what a caption of the scene states; UNSAID for what it leaves open."""
    things = [(said["kind"], said["colour"]) for said in stated["things"]]
    if scene.relation and not stated["relation"]:  # two things somewhere
        return [UNSAID] * 5 + _classes(scene, things, stated["background"], NONE)[5:]
    # A caption without a word is also said of lettered pictures.
    return _classes(scene, things, stated["background"], stated["word"])


def _classes(scene: Scene, things: list[tuple[str | None, str | None]], background: object, word: object) -> list[int]:
    found = [value for number in placed(scene) for value in things[number]]
    if len(things) == 1:
        found += [NONE, NONE]
    axis = "one" if not scene.relation else "row" if scene.relation in ("left of", "right of") else "column"
    if word not in (None, NONE, *WORDS):
        word = "another"
    found += [axis, background, word]
    return [
        UNSAID if value is None else classes.index(value)
        for value, classes in zip(found, FACTS.values(), strict=True)
    ]  # fmt: skip
