"""Ordinary captions: what a model is to go on saying while it learns something new."""

from __future__ import annotations

import random

from ..clip.model import Clip

# Everyday words, of which a CLIP with a vocabulary of its own may know a few.
THINGS = (
    *("apple", "ball", "balloon", "banana", "bear", "bed", "bench", "bicycle", "bird", "boat", "book", "bottle", "boy"),
    *("bridge", "bus", "butterfly", "cake", "camera", "candle", "car", "castle", "cat", "chair", "church", "clock"),
    *("coat", "computer", "cow", "cup", "dog", "dress", "elephant", "fish", "flower", "forest", "fox", "frog", "girl"),
    *("glass", "guitar", "hat", "heart", "horse", "house", "kitchen", "lamp", "lion", "man", "moon", "mountain"),
    *("mouse", "mushroom", "piano", "pizza", "rabbit", "river", "road", "robot", "rose", "sandwich", "sheep", "ship"),
    *("shoe", "sofa", "star", "street", "table", "tower", "train", "tree", "umbrella", "vase", "window", "woman"),
)
KINDS = (
    *("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black", "brown", "small", "big", "old"),
    *("new", "wooden", "beautiful", "broken"),
)
PLACES = (
    *("on a table", "on a meadow", "in the snow", "by the sea", "in the sea", "in the desert", "on a night sky"),
    *("on a blue sky", "in the rain", "in a forest", "in a street", "on a beach", "in a room", "in a garden"),
    *("on a white background", "at night"),
)
SHARE = 0.7  # of the captions that say a kind, and of those that say a place


class Ordinary:
    """Captions of everyday things, kinds and places, of words that `clip` knows; where it knows none of the things,
    words of its own vocabulary."""

    def __init__(self, clip: Clip) -> None:
        self.things, self.kinds, self.places = (
            [words for words in every if not clip.unknown_words(words)] for every in (THINGS, KINDS, PLACES)
        )
        self.things = self.things or list(clip.config.vocabulary) or list(THINGS)

    def draw(self, rng: random.Random) -> str:
        """A caption such as "a red boat in the snow"."""
        words = [rng.choice(self.things)]
        if self.kinds and rng.random() < SHARE:
            words.insert(0, rng.choice(self.kinds))
        if self.places and rng.random() < SHARE:
            words.append(rng.choice(self.places))
        return " ".join(["a", *words])
