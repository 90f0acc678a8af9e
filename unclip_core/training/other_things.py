"""Captions of other things, in the words that a subject's captions have: what is to stay while the subject is learned.

That they differ from the subject's by the thing alone is what makes them teach: of ordinary captions those with a
colour that no picture of the subject has would tell the prior that this colour is never the subject's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from ..clip.model import Clip

# Everyday things, of which a CLIP with a vocabulary of its own may know a few.
THINGS = (
    *("apple", "ball", "balloon", "banana", "bear", "bed", "bench", "bicycle", "bird", "boat", "book", "bottle", "boy"),
    *("bridge", "bus", "butterfly", "cake", "camera", "candle", "car", "castle", "cat", "chair", "church", "clock"),
    *("coat", "computer", "cow", "cup", "dog", "dress", "elephant", "fish", "flower", "forest", "fox", "frog", "girl"),
    *("glass", "guitar", "hat", "heart", "horse", "house", "kitchen", "lamp", "lion", "man", "moon", "mountain"),
    *("mouse", "mushroom", "piano", "pizza", "rabbit", "river", "road", "robot", "rose", "sandwich", "sheep", "ship"),
    *("shoe", "sofa", "star", "street", "table", "tower", "train", "tree", "umbrella", "vase", "window", "woman"),
)
SHORT_SHARE = 0.25  # of the captions that say the thing alone


class OtherThings:
    """sentences: the subject's captions, a `mark` where it is named. Things are those that `clip` knows; where it knows
    none, all words of its vocabulary. kind: the subject's class, which is said by others."""

    def __init__(self, clip: Clip, sentences: Sequence[str], mark: str, kind: str) -> None:
        known = [thing for thing in THINGS if thing != kind and not clip.unknown_words(thing)]
        self.things = known or list(clip.config.vocabulary) or list(THINGS)
        self.sentences, self.mark = list(sentences), mark

    def draw(self, rng: random.Random) -> str:
        """A caption such as "a boat" or "a red boat on the sea"."""
        sentence = f"a {self.mark}" if rng.random() < SHORT_SHARE else rng.choice(self.sentences)
        return sentence.replace(self.mark, rng.choice(self.things))
