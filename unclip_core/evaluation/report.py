"""Runs every measurement of the embedded stack and writes the table."""

from __future__ import annotations

from typing import Any

from PIL import Image

from ..storybook.shards import make_scenes
from ..training.sheets import grid
from . import storybook
from .judge import Judge
from .storybook import SampleSettings, Tick

Scores = dict[str, Any]


def score_stack(
    handles: Any,
    judge: Judge,
    settings: SampleSettings,
    samples: int,
    pairs: int,
    renders: int,
    seed: int,
    tick: Tick,
) -> tuple[Scores, Image.Image]:
    """All scores, and a sheet of the first 64 samples, unselected."""
    scenes = make_scenes(samples, storybook.SCENE_SEED, "heldout", "one")
    captions = storybook.captions_of(scenes)
    pictures = storybook.decode_captions(
        handles["clip"], handles["prior"], handles["decoder"], captions, settings, seed, tick
    )
    scores: Scores = {
        "samples": storybook.attribute_scores(judge, pictures, scenes),
        "ceiling": storybook.attribute_scores(judge, storybook.real_pictures(scenes), scenes),
        "count": samples,
    }
    if pairs:
        two = make_scenes(pairs, storybook.SCENE_SEED, "heldout", "two")
        decoded = storybook.decode_captions(
            handles["clip"], handles["prior"], handles["decoder"], storybook.captions_of(two), settings, seed, tick
        )
        scores["pairs"] = storybook.pair_scores(judge, decoded, two)
        scores["pairs_ceiling"] = storybook.pair_scores(judge, storybook.real_pictures(two), two)
    if renders:
        scores["upsampler_256"] = storybook.upsampler_scores(handles["upsampler_256"], renders, tick)
        scores["upsampler_1024"] = storybook.upsampler_scores(handles["upsampler_1024"], renders, tick)
    scores["retrieval"] = storybook.retrieval_score(handles["clip"])
    return scores, grid(pictures[:64])


def table(scores: Scores) -> str:
    """The scores as a Markdown table, targets and ceilings beside them."""
    lines = ["| measured | score | ceiling | target |", "|---|---|---|---|"]
    for name, target in storybook.TARGETS.items():
        mine, best = scores["samples"][name], scores["ceiling"][name]
        lines.append(f"| {name}, {scores['count']} held-out captions | {mine:.1%} | {best:.1%} | {target:.0%} |")
    for name, value in scores.get("pairs", {}).items():
        lines.append(f"| two objects: {name} | {value:.1%} | {scores['pairs_ceiling'][name]:.1%} | |")
    for size in (256, 1024):
        if found := scores.get(f"upsampler_{size}"):
            gain = f"{found['ours']:.2f} dB, {found['gain']:+.2f} over bicubic"
            lines.append(f"| upsampler {size} | {gain} | | +{storybook.PSNR_GAIN_TARGET:.0f} dB |")
    lines.append(
        f"| CLIP retrieval, 256 held-out pairs | {scores['retrieval']:.1%} | | {storybook.RETRIEVAL_TARGET:.0%} |"
    )
    return "\n".join(lines)
