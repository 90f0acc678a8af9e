"""Reads every byte of a stack's weights and lists all that is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .catalog import StackEntry
from .header import CheckpointError, StageFile, WeightSet, guarded
from .keys import find_mismatches
from .loading import empty_stage
from .states import rules_of, tensors_of
from .tensors import Source, open_weights


@dataclass(frozen=True)
class FileProblem:
    """What is wrong with a file, or with one tensor in it. key, expected: "" where there is none to name."""

    file: str
    key: str
    expected: str
    found: str


def verify_stack(entry: StackEntry, on_progress: Callable[[int, int], None] | None = None) -> list[FileProblem]:
    """Every problem of a stack: files that cannot be read or are cut, tensors that are missing, unknown, of the wrong
    shape, or not finite. All variants of a stage are read, not only the one that loads by default.

    on_progress(done, total): bytes.
    """
    problems = [_from_text(text) for text in entry.problems]
    stages = list(entry.stages.values())
    files = {path for stage in stages for sets in stage.parts.values() for one in sets for path in one.files}
    total, done = sum(path.stat().st_size for path in files), 0

    def tick(size: int) -> None:
        nonlocal done
        done += size
        if on_progress is not None:
            on_progress(min(done, total), total)

    checked: dict[WeightSet, dict[str, Source]] = {}  # prior and decoder may share a part
    for stage in stages:
        for sets in stage.parts.values():
            for weights in sets:
                if weights not in checked:
                    checked[weights] = {}
                    problems += _check_numbers(weights, checked, tick)
        problems += _check_shapes(stage, checked)
    tick(total - done)
    return list(dict.fromkeys(problems))


def _check_numbers(
    weights: WeightSet, checked: dict[WeightSet, dict[str, Source]], tick: Callable[[int], None]
) -> Iterator[FileProblem]:
    """Open a set into `checked` and look at every number in it."""
    try:
        checked[weights] = open_weights(weights)
    except CheckpointError as error:
        yield _from_text(str(error))
        return
    for key, source in checked[weights].items():
        try:
            tensor = source.read()
        except (CheckpointError, RuntimeError, OSError) as error:
            yield FileProblem(str(source.path), key, "readable", " ".join(str(error).split()))
            continue
        if wrong := _count_infinite(tensor):
            found = f"{wrong} of {tensor.numel()} are NaN or infinite"
            yield FileProblem(str(source.path), key, "finite numbers", found)
        tick(tensor.numel() * tensor.element_size())


def _count_infinite(tensor: Tensor) -> int:
    """How many numbers are NaN or infinite. One pass without a copy where, as always, there are none."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return 0
    if all(torch.isfinite(value) for value in torch.aminmax(tensor)):
        return 0
    return int((~torch.isfinite(tensor)).sum())


def _check_shapes(stage: StageFile, checked: dict[WeightSet, dict[str, Source]]) -> Iterator[FileProblem]:
    """Names and shapes of each set against the network that the stage's config describes."""
    try:
        with guarded(stage.path):
            network = empty_stage(stage.stage, stage.config)
    except CheckpointError as error:  # sizes that no network can have
        yield _from_text(str(error))
        return
    rule_of, ignored, given = rules_of(stage)
    targets = {name: tensor.shape for name, tensor in network.state_dict().items() if name not in given}
    rules = {name: rule_of(name) for name in targets}
    for turn in range(max(map(len, stage.parts.values()))):
        # The variants of a part one after another; a part with fewer repeats its last.
        sets = {part: sets[min(turn, len(sets) - 1)] for part, sets in stage.parts.items()}
        parts = {part: tensors_of(stage, part, checked[one]) for part, one in sets.items()}
        if not all(parts.values()):  # one could not be opened, which has been said
            continue
        paths = {"/".join(path.parts[-2:]): str(path) for one in sets.values() for path in one.files}
        for item in find_mismatches(targets, rules, parts, ignored):
            expected = "no such tensor" if item.expected is None else f"shape {item.expected}"
            found = "missing" if item.found is None else f"shape {item.found}"
            yield FileProblem(paths.get(item.file, item.file), item.key, expected, found)


def _from_text(text: str) -> FileProblem:
    """A line of the catalog, "file: reason"."""
    file, separator, reason = text.partition(": ")
    return FileProblem(file, "", "", reason) if separator else FileProblem("", "", "", text)
