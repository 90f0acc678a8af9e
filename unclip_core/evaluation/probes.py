"""Whether a picture's embedding says what stands where: linear probes on pairs, and pairs with something exchanged.

A probe is a linear classifier of an embedding: what it cannot read, a decoder will hardly find. It is fitted on
renders of training pairs and asked about held-out ones: the kind and colour of the upper or left thing, those of the
lower or right one, and whether they stand in a column or a row. "bound" is all five.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..clip.model import Clip
from ..stages import Prior
from ..storybook.captions import caption, matches
from ..storybook.facts import facts
from ..storybook.scenes import COLOURS, OBJECTS, SWAPS, WORDS, Scene, misspelt, sample_scene, swapped
from ..storybook.shards import make_scenes
from .statistics import proportion
from .storybook import real_pictures

PROBE_SEED = 3030  # of every scene here; training uses other seeds
PENALTY = 1e-4  # on the squares of a probe's weights
RETRIEVED = 256  # pictures that a caption is to find its own among
HEADS = {
    "kind": len(OBJECTS),
    "colour": len(COLOURS),
    "other kind": len(OBJECTS),
    "other colour": len(COLOURS),
    "axis": 2,
}
# What a stack that binds must reach; see `gates`.
TARGETS = {
    "probe on z_i": 0.85,
    "swapped colours": 0.95,
    "swapped objects": 0.95,
    "swapped relation": 0.95,
    "one-object retrieval": 0.92,
    "probe on the prior's z": 0.80,
}


def pair_classes(scene: Scene) -> list[int]:
    """The right answers of a probe about a scene of two things, in the order of HEADS."""
    return facts(scene)[: len(HEADS)]


@dataclass(frozen=True)
class Probe:
    """Linear classifiers of embeddings (B, D), standardised by the mean and deviation they were fitted on."""

    mean: Tensor
    std: Tensor
    weight: Tensor  # (D, classes of all heads)
    bias: Tensor

    def answers(self, z: Tensor) -> Tensor:
        """(B, heads): the likeliest class of each."""
        logits = ((z - self.mean) / self.std) @ self.weight + self.bias
        return torch.stack([part.argmax(1) for part in logits.split(list(HEADS.values()), dim=1)], dim=1)

    def score(self, z: Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
        """Share of right answers by head, and of rows with all of them right ("bound")."""
        right = self.answers(z) == torch.tensor([pair_classes(scene) for scene in scenes])
        found = dict(zip(HEADS, right.float().mean(0).tolist(), strict=True))
        return {**found, "bound": right.all(1).float().mean().item()}


def fit_probe(z: Tensor, scenes: Sequence[Scene]) -> Probe:
    """Logistic regressions of every head on embeddings (N, D)."""
    classes = torch.tensor([pair_classes(scene) for scene in scenes])
    mean, std = z.mean(0), z.std(0).clamp(min=1e-6)
    x = (z - mean) / std
    weight = torch.zeros(z.shape[1], sum(HEADS.values()), requires_grad=True)
    bias = torch.zeros(sum(HEADS.values()), requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=150, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        parts = (x @ weight + bias).split(list(HEADS.values()), dim=1)
        total = sum(F.cross_entropy(part, classes[:, head]) for head, part in enumerate(parts))
        total = total + PENALTY * weight.square().sum()
        total.backward()
        return total

    optimiser.step(loss)
    return Probe(mean, std, weight.detach(), bias.detach())


def embed(clip: Clip, scenes: list[Scene]) -> Tensor:
    """(N, D) native image embeddings of the scenes' renders."""
    parts = (scenes[start : start + 256] for start in range(0, len(scenes), 256))
    return torch.cat([clip.encode_image(real_pictures(part)).vector for part in parts])


def full_captions(scenes: list[Scene], language: str | None = "en") -> list[str]:
    """A caption with everything said, for each scene; the same words every time."""
    return [
        caption(scene, random.Random(f"{PROBE_SEED}/{row}"), language, full=True)[0] for row, scene in enumerate(scenes)
    ]


def two_way(clip: Clip, scenes: list[Scene], others: list[Scene], language: str | None = "en") -> float:
    """Share of right choices between two captions for a picture, and between two pictures for a caption.

    Each scene is told from its counterpart in `others`; one half is chance.
    """
    pictures = torch.stack([F.normalize(embed(clip, side), dim=-1) for side in (scenes, others)])  # (2, N, D)
    texts = torch.stack(
        [F.normalize(clip.encode_text(full_captions(side, language)).embed, dim=-1) for side in (scenes, others)]
    )
    close = torch.einsum("ind,jnd->ijn", pictures, texts)
    right = [close[0, 0] > close[0, 1], close[1, 1] > close[1, 0], close[0, 0] > close[1, 0], close[1, 1] > close[0, 1]]
    return torch.stack(right).float().mean().item()


def exchanged_pairs(count: int, what: str) -> tuple[list[Scene], list[Scene]]:
    """`count` held-out scenes of two different things in different colours, and the same with `what` exchanged."""
    rng = random.Random(f"{PROBE_SEED}/{what}")
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sample_scene(rng, "heldout", "two")
        if len({thing.kind for thing in scene.things}) == len({thing.colour for thing in scene.things}) == 2:
            scenes.append(scene)
    return scenes, [swapped(scene, what, rng) for scene in scenes]


def exchanged_words(count: int, spelt: bool) -> tuple[list[Scene], list[Scene]]:
    """`count` held-out lettered scenes, and the same with another word, or with the word misspelt (spelt False)."""
    rng = random.Random(f"{PROBE_SEED}/words")
    scenes = [sample_scene(rng, "heldout", "word") for _ in range(count)]
    others = [
        rng.choice([word for word in WORDS if word != scene.word]) if spelt else misspelt(scene.word, rng)
        for scene in scenes
    ]
    return scenes, [dataclasses.replace(scene, word=word) for scene, word in zip(scenes, others, strict=True)]


def retrieval(clip: Clip, kind: str, language: str | None = None) -> float:
    """Share of captions whose nearest of RETRIEVED held-out pictures of a kind has every attribute that is stated."""
    scenes = make_scenes(RETRIEVED, PROBE_SEED + 1, "heldout", kind)
    rng = random.Random(PROBE_SEED)
    captions, stated = zip(*(caption(scene, rng, language) for scene in scenes), strict=True)
    image = F.normalize(embed(clip, scenes), dim=-1)
    text = F.normalize(clip.encode_text(list(captions)).embed, dim=-1)
    nearest = (text @ image.T).argmax(1).tolist()
    return sum(matches(said, scenes[pick]) for said, pick in zip(stated, nearest, strict=True)) / RETRIEVED


def gates(
    clip: Clip,
    prior: Prior | None = None,
    fitted_on: int = 8000,
    asked: int = 500,
    tick: Callable[[str], object] = lambda what: None,
) -> dict[str, float]:
    """Every measure of binding by name, shares in 0..1. asked: held-out scenes of each."""
    found: dict[str, float] = {}
    for what in SWAPS:
        tick(f"swapped {what}")
        found[f"swapped {what}"] = two_way(clip, *exchanged_pairs(asked, what))
    found["swapped relation, Chinese"] = two_way(clip, *exchanged_pairs(asked, "relation"), "zh")
    found["another word"] = two_way(clip, *exchanged_words(asked, True))
    found["a misspelt word"] = two_way(clip, *exchanged_words(asked, False))
    for kind in ("one", "two", "word"):
        tick(f"retrieval {kind}")
        found[f"{kind}-object retrieval" if kind != "word" else "lettered retrieval"] = retrieval(clip, kind)
    found["one-object retrieval, Chinese"] = retrieval(clip, "one", language="zh")
    found["one-object retrieval, English"] = retrieval(clip, "one", language="en")
    tick("probe")
    train, test = make_scenes(fitted_on, PROBE_SEED, "train", "two"), make_scenes(asked, PROBE_SEED, "heldout", "two")
    probe = fit_probe(embed(clip, train), train)
    found |= {f"probe on z_i, {head}": value for head, value in probe.score(embed(clip, test), test).items()}
    found["probe on z_i"] = found.pop("probe on z_i, bound")
    if prior is not None:
        tick("prior")
        made = prior.sample(clip.encode_text(full_captions(test)), seed=0).vector
        found |= {f"probe on the prior's z, {head}": value for head, value in probe.score(made, test).items()}
        found["probe on the prior's z"] = found.pop("probe on the prior's z, bound")
    return found


def table(found: dict[str, float], asked: int) -> str:
    """`gates` as a Markdown table with 95 % intervals, targets and whether the interval is beyond them."""
    rows = [["measured on held-out renders", "score (95 % interval)", "target", "verdict"], ["---"] * 4]
    for name, value in found.items():
        measured = proportion(value, RETRIEVED if "retrieval" in name else asked)
        target = TARGETS.get(name)
        ends = ["", ""] if target is None else [f"{target:.0%}", measured.against(target)]
        rows.append([name, measured.shown("%"), *ends])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
