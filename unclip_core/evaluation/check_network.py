"""What a check finds in the weights of one network: their number, their sizes, and which way round matrices stand."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

from torch import nn

from ..runtime.placement import Placed
from ..texts import first_few
from . import check_weights as weights
from .check_behaviour import Run
from .findings import FAILED, OK, Finding, skipped

# Numbers in the published networks, by the ids that their configs have.
PUBLISHED = {
    "karlo-v1-alpha/prior": 1_022_030_080,
    "karlo-v1-alpha/decoder": 893_318_086,
    "kandinsky-2-1/prior": 1_022_030_080,
    "kandinsky-2-1/decoder": 1_228_661_768,
    "kandinsky-2-2/prior": 1_026_225_920,
    "kandinsky-2-2/decoder": 1_253_057_288,
    "kandinsky-2-2-inpaint/decoder": 1_253_074_568,
    "kandinsky-2-2-controlnet-depth/decoder": 1_253_429_212,
    "stable-diffusion-2-1-unclip/decoder": 870_173_124,
    "stable-diffusion-2-1-unclip-small/decoder": 869_517_764,
    "eclipse-karlo/prior": 33_143_040 - 2 * 768,  # without the mean and std that are not applied
    "eclipse-kandinsky-2-2/prior": 34_193_152 - 2 * 1280,
}
MOVQ_NUMBERS = 67_832_495

LARGE = 300_000_000  # numbers from which a network sees fewer drawings: a minute is short on a processor


def check_network(
    stage: str,
    name: str,
    network: Placed[nn.Module],
    run: Callable[[int], Run],
    published: int | None = None,
) -> Iterator[Finding]:
    """Size, dtype and tensors of a stage's network, and which way round its matrices stand.

    run: of how many drawings -> what the network is measured on. published: how many numbers it has as published, where
    that is known.
    """
    placed = network.unpacked()
    module = placed.on_device()
    whole = placed.in_memory() if placed.fetches else module
    try:
        numbers = weights.count_numbers(whole)
        expected = f"{numbers:,} by its config" if published is None else f"{published:,} as published"
        status = OK if published in (None, numbers) else FAILED
        report = "not the published network: report folder and number" if status == FAILED else ""
        dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in whole.parameters()})
        found = f"{numbers:,} numbers, {' and '.join(dtypes)}"
        yield Finding(stage, f"{name}: size", status, found, expected, report)
        yield from _tensors(stage, name, whole)
        if placed.fetches:
            check = f"{name}: matrices the right way round"
            reason = f"it does not fit onto {placed.device}, and weights that are fetched as used have no gradients"
            yield skipped(stage, check, reason)
        else:
            yield from _orientation(stage, name, module, run(2 if numbers >= LARGE else 12))
    finally:
        if placed is not network:
            placed.unload()


def _tensors(stage: str, name: str, module: nn.Module) -> Iterator[Finding]:
    if infinite := weights.find_infinite(module):
        report = "the file is damaged: download it again, `unclip models --verify NAME` says more"
        check = f"{name}: finite"
        yield Finding(stage, check, FAILED, f"NaN in {first_few(infinite)}", "finite numbers", report)
    untrained = weights.find_untrained_norms(module)
    yield Finding(
        stage,
        f"{name}: norms",
        FAILED if untrained else OK,
        f"never trained: {first_few(untrained)}" if untrained else "all trained",
        "none that is exactly 1 and 0",
        "the norm was missing where these files were made and took its initial value: convert or download them again",
    )
    for group in weights.measure_groups(module):
        low, high = weights.RANGES[group.kind]
        found = f"{group.low:.3g} to {group.high:.3g}, median {group.median:.3g} ({group.tensors} tensors)"
        if group.odd:
            found = f"{first_few(f'{tensor} {value:.3g}' for tensor, value in group.odd)} of {group.tensors} tensors"
        yield Finding(
            stage,
            f"{name}: {group.kind}",
            FAILED if group.odd else OK,
            found,
            f"{low:g} to {high:g}",
            "tensors of an impossible size: zeroed, scaled or of another place; report the names",
            minor=not group.odd,
        )


def _orientation(stage: str, name: str, module: nn.Module, run: Run) -> Iterator[Finding]:
    scores = weights.measure_orientation(module, run)
    if not scores:
        return
    turned = weights.find_turned(scores)
    below = sum(score < 0.0 for score in scores.values())
    found = f"all {len(scores)}; median {statistics.median(scores.values()):.2f}, {below} below 0"
    if turned:
        found = first_few(f"{tensor} {scores[tensor]:.2f}" for tensor in turned)
    yield Finding(
        stage,
        f"{name}: matrices the right way round",
        FAILED if turned else OK,
        found,
        "as in other blocks",
        "stored transposed, or read so from this layout: report the names",
    )
