"""Interpolation between two pictures, by z_i and x_T together, and by z_i over one noise (§3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ...embeddings import draw_x_T, slerp_embeddings, slerp_noises
from ...pictures.drawing import labelled_grid
from ...pictures.likeness import psnrs
from ...storybook.scenes import Scene
from ...types import Embedding, GivenNoise, RandomNoise
from ..context import Context
from ..judge import HEADS
from ..results import Check, Figure, Result, Table
from ..statistics import mean, share
from ..storybook import real_pictures
from .common import Experiment, judged, result_scenes, truth


@dataclass(frozen=True)
class Settings:
    """pairs: of held-out scenes; frames: both ends included."""

    pairs: int = 32
    frames: int = 9
    steps: int = 25
    refine: int = 3


def run(context: Context, settings: Settings) -> Result:
    """What lies on the path between two pictures."""
    pairs = unlike_pairs(settings.pairs)
    ends = [real_pictures([pair[end] for pair in pairs]) for end in (0, 1)]
    embeds = [context.embed(pictures) for pictures in ends]
    noises = [
        context.invert(pictures, embed, f"invert end {end}", steps=settings.steps, refine=settings.refine)
        for end, (pictures, embed) in enumerate(zip(ends, embeds, strict=True))
    ]
    path = slerp_embeddings(*embeds, frames=settings.frames)
    ways = {
        "z_i and x_T": context.decode(
            path, noise=slerp_noises(*noises, frames=settings.frames), guidance_scale=1.0, what="interpolate"
        ),
        "z_i over one noise": _over_one_noise(context, path, settings),
        "pixels (baseline)": _lerp_of_pixels(*ends, settings.frames),
    }
    scores = {name: PathScores.of(context, pairs, made, settings.frames) for name, made in ways.items()}
    ours, pixels = scores["z_i and x_T"], scores["pixels (baseline)"]
    frames = ways["z_i and x_T"].unflatten(0, (settings.pairs, settings.frames))
    quality = [mean(psnrs(frames[:, i], ends[i])) for i in (0, -1)]
    lead = [mine - theirs for mine, theirs in zip(ours.inner, pixels.inner, strict=True)]
    checks = [
        Check("first frame against its picture", quality[0], 30.0, "dB"),
        Check("last frame against its picture", quality[1], 30.0, "dB"),
        Check("an attribute equals one of the two ends", share(ours.one_of_ends, settings.pairs), 0.80),
        Check("an attribute switches at most once", share(ours.one_switch, settings.pairs), 0.70),
        Check("lead over a lerp of pixels, inner frames", mean(lead, signed=True), 0.0),
    ]
    columns = ["way", "one of the ends", "the same, inner frames", "at most one switch"]
    return Result(
        checks=checks,
        tables=[
            Table(f"{settings.pairs} pairs, {settings.frames} frames", columns, [s.row(n) for n, s in scores.items()])
        ],
        figures=[_grid(ways, settings)],
        paper=_verdict(checks),
        notes=[
            "An attribute is the object, the colour or the background, as the judge sees it in a frame. Guidance 1, no "
            "caption, eta 0. The second kind's ends are not the input pictures, since its noise is not theirs."
        ],
    )


@dataclass(frozen=True)
class PathScores:
    """Of every path and attribute: shares of frames (all, inner) that show an end's value, and whether it switches at
    most once. `inner` is one number a path."""

    one_of_ends: list[float]
    one_switch: list[bool]
    inner: list[float]

    @classmethod
    def of(cls, context: Context, pairs: list[tuple[Scene, Scene]], made: Tensor, frames: int) -> PathScores:
        """Judge frames (pairs * frames, 64, 64, 3)."""
        seen = judged(context.judge, made)
        hits, switches, inner = [], [], []
        for index, pair in enumerate(pairs):
            path, wanted, here = seen[index * frames : (index + 1) * frames], [truth(scene) for scene in pair], []
            for head in HEADS:
                values = [frame[head] for frame in path]
                fits = [value in (wanted[0][head], wanted[1][head]) for value in values]
                hits.append(sum(fits) / len(fits))
                here += fits[1:-1]
                switches.append(sum(a != b for a, b in pairwise(values)) <= 1)
            inner.append(sum(here) / max(1, len(here)))
        return cls(hits, switches, inner)

    def row(self, name: str) -> list[str]:
        """A line of the table; intervals over paths."""
        paths = len(self.inner)
        numbers = (share(self.one_of_ends, paths), share(self.inner), share(self.one_switch, paths))
        return [name, *(number.shown("%") for number in numbers)]


def unlike_pairs(count: int) -> list[tuple[Scene, Scene]]:
    """Held-out scenes two by two, each pair of different objects, colours and backgrounds."""
    scenes, pairs = result_scenes(20 * count, offset=2), []
    while len(pairs) < count:
        first = scenes.pop(0)
        other = next(s for s in scenes if all(truth(s)[head] != truth(first)[head] for head in HEADS))
        scenes.remove(other)
        pairs.append((first, other))
    return pairs


def _over_one_noise(context: Context, path: Embedding, settings: Settings) -> Tensor:
    side = context.decoder.config.unet.image_size
    x_T = draw_x_T(RandomNoise(11, settings.pairs), (3, side, side)).repeat_interleave(settings.frames, 0)
    return context.decode(
        path, noise=GivenNoise(x_T), sampler="ddim", steps=settings.steps, guidance_scale=1.0, what="one noise"
    )


def _lerp_of_pixels(first: Tensor, last: Tensor, frames: int) -> Tensor:
    shares = torch.linspace(0, 1, frames)[None, :, None, None, None]
    return torch.lerp(first[:, None], last[:, None], shares).flatten(0, 1)


def _grid(ways: dict[str, Tensor], settings: Settings) -> Figure:
    shown, rows, labels = min(2, settings.pairs), [], []
    for pair in range(shown):
        for name, made in ways.items():
            rows.append(made[pair * settings.frames : (pair + 1) * settings.frames])
            labels.append(name)
    return Figure("interpolation", "Two pairs, each by three ways.", labelled_grid(rows, labels))


def _verdict(checks: list[Check]) -> list[str]:
    """By all of them: a path that never leaves its first picture is of an end everywhere, but has no other end."""
    first, last, path, _, lead = checks
    open_ones = "".join(check.proviso for check in checks)
    if all(check.verdict != "missed" for check in checks) and lead.verdict == "reached":
        return [
            "Agrees with §3.2: the ends reconstruct, frames between two pictures are pictures themselves and change "
            f"from one to the other{open_ones}."
        ]
    placed = {"reached": "above", "missed": "below", "undecided": "not clearly above"}[lead.verdict]
    told = (
        f"the ends come back at {first.measured.value:.1f} and {last.measured.value:.1f} dB, "
        f"{path.measured.value:.0%} of the attributes along the paths are those of an end, and the judge puts the "
        f"paths {placed} a lerp of pixels{open_ones}."
    )
    if all(check.verdict != "missed" for check in checks):
        return [f"Undecided on §3.2: {told}"]
    return [f"Only partly agrees with §3.2: {told}"]


EXPERIMENT = Experiment(
    "interpolation",
    "Interpolation",
    "§3.2: slerp of z_i and x_T blends two pictures, the ends reconstruct",
    Settings(),
    Settings(pairs=6, frames=7, steps=25),
    run,
    shown=("interpolation",),
)
