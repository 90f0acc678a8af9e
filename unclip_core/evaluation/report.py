"""Runs every measurement of the embedded stack and writes the table."""

from __future__ import annotations

from typing import Any

from PIL import Image

from ..stack import Stack
from ..storybook.shards import make_scenes
from ..training.sheets import grid
from . import storybook
from .judge import Judge
from .statistics import Measured, proportion
from .storybook import SampleSettings, Tick

Scores = dict[str, Any]


def score_stack(
    stack: Stack,
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
    pictures = storybook.decode_captions(stack.clip, stack.prior, stack.decoder, captions, settings, seed, tick)
    scores: Scores = {
        "samples": storybook.attribute_scores(judge, pictures, scenes),
        "ceiling": storybook.attribute_scores(judge, storybook.real_pictures(scenes), scenes),
        "count": samples,
    }
    if pairs:
        two = make_scenes(pairs, storybook.SCENE_SEED, "heldout", "two")
        decoded = storybook.decode_captions(
            stack.clip, stack.prior, stack.decoder, storybook.captions_of(two), settings, seed, tick
        )
        scores["pair_count"] = pairs
        scores["pairs"] = storybook.pair_scores(judge, decoded, two)
        scores["pairs_ceiling"] = storybook.pair_scores(judge, storybook.real_pictures(two), two)
    if renders:
        scores["upsampler_256"] = storybook.upsampler_scores(stack.upsampler_256, renders, tick)
        scores["upsampler_1024"] = storybook.upsampler_scores(stack.upsampler_1024, renders, tick)
    scores["retrieval"] = storybook.retrieval_score(stack.clip)
    return scores, grid(pictures[:64])


def table(scores: Scores) -> str:
    """The scores as a Markdown table: 95 % intervals, ceilings, targets, and whether the interval is beyond them."""
    count, pairs = scores["count"], scores.get("pairs", {})
    rows = [["measured", "score (95 % interval)", "ceiling", "target", "verdict"], ["---"] * 5]
    for name, target in storybook.TARGETS.items():
        found, best = proportion(scores["samples"][name], count), f"{scores['ceiling'][name]:.1%}"
        rows.append(
            [f"{name}, {count} held-out captions", _percent(found), best, f"{target:.0%}", found.against(target)]
        )
    for name, value in pairs.items():
        found = proportion(value, scores["pair_count"])
        rows.append([f"two objects: {name}", _percent(found), f"{scores['pairs_ceiling'][name]:.1%}", "", ""])
    for size in (256, 1024):
        if found := scores.get(f"upsampler_{size}"):
            gain, target = (
                Measured(*(found[key] for key in ("gain", "gain_low", "gain_high"))),
                storybook.PSNR_GAIN_TARGET,
            )
            interval = f" ({gain.low:.2f} to {gain.high:.2f})" if gain.has_interval else " (one render)"
            shown = f"{found['ours']:.2f} dB, {gain.value:+.2f}{interval} over bicubic"
            rows.append(
                [f"upsampler {size}, {found['renders']} renders", shown, "", f"+{target:.0f} dB", gain.against(target)]
            )
    found, target = proportion(scores["retrieval"], storybook.RETRIEVAL_PAIRS), storybook.RETRIEVAL_TARGET
    label = f"CLIP retrieval, {storybook.RETRIEVAL_PAIRS} held-out pairs"
    rows.append([label, _percent(found), "", f"{target:.0%}", found.against(target)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _percent(found: Measured) -> str:
    return f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%})"
