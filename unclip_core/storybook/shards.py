"""Scenes pre-drawn at 64 px: a uint8 file of pictures and a JSON-lines file of scenes, drawn once, memory-mapped."""

from __future__ import annotations

import dataclasses
import json
import random
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import numpy as np

from ..disk import reserve, whole_file, write_text
from .draw import render
from .scenes import Scene, Thing, sample_scene, swap_group

SIZE = 64
FORK_FROM = 256  # scenes; fewer are drawn before processes have started


def scene_to_json(scene: Scene) -> str:
    """One line of JSON; `scene_from_json` gives an equal scene back."""
    return json.dumps(dataclasses.asdict(scene))


def scene_from_json(line: str) -> Scene:
    """Read a scene written by `scene_to_json`."""
    data = json.loads(line)
    return Scene(**{**data, "things": tuple(Thing(**thing) for thing in data["things"])})


def make_scenes(count: int, seed: int, split: str = "train", kind: str | None = None) -> list[Scene]:
    """`count` scenes; the same for the same seed, split and kind."""
    rng = random.Random(f"{seed}/{split}/{kind}")
    return [sample_scene(rng, split, kind) for _ in range(count)]


def make_swaps(count: int, seed: int) -> list[list[Scene]]:
    """Training scenes in groups, `count` in all: 40 % of two things and 16 % lettered, both beside what they are
    easily taken for (`swap_group`), the rest of one thing, each a group of its own."""
    rng = random.Random(f"{seed}/swaps")
    wanted = {"two": round(0.40 * count), "word": round(0.16 * count)}
    wanted["one"] = count - sum(wanted.values())
    groups: list[list[Scene]] = []
    for kind, room in wanted.items():
        while room > 0:
            group = [sample_scene(rng, "train", "one")] if kind == "one" else swap_group(rng, kind)
            groups.append(group[:room])
            room -= len(groups[-1])
    rng.shuffle(groups)
    return groups


def _draw(scene: Scene) -> np.ndarray:
    return render(scene, SIZE)


def draw_many(scenes: list[Scene], workers: int = 1) -> np.ndarray:
    """(N, 64, 64, 3) uint8."""
    if workers <= 1 or len(scenes) < FORK_FROM:
        return np.stack([_draw(scene) for scene in scenes])
    # Forked workers start at once; where there is no fork (Windows), new processes do.
    with get_context("fork" if "fork" in get_all_start_methods() else None).Pool(workers) as pool:
        return np.stack(pool.map(_draw, scenes, chunksize=64))


def prepare(
    folder: Path, count: int, seed: int, workers: int = 1, swaps: bool = False
) -> tuple[np.ndarray, list[Scene], list[int]]:
    """Open the training shards in `folder`, drawing them first if they are not there for this count and seed.

    swaps: those of `make_swaps`, group after group. Returns pictures (N, 64, 64, 3) uint8, memory-mapped, their
    scenes, and each one's group.
    """
    stem = folder / f"storybook{'-swaps' if swaps else ''}-{count}-{seed}"
    pictures, scenes_file, sizes_file = (stem.with_suffix(suffix) for suffix in (".npy", ".jsonl", ".groups.json"))
    if not (scenes_file.exists() and pictures.exists()):
        groups = make_swaps(count, seed) if swaps else [[scene] for scene in make_scenes(count, seed)]
        scenes = [scene for group in groups for scene in group]
        with whole_file(pictures) as temporary:
            out = np.lib.format.open_memmap(temporary, "w+", np.uint8, (count, SIZE, SIZE, 3))
            reserve(temporary, temporary.stat().st_size)
            for start in range(0, count, 8192):
                out[start : start + 8192] = draw_many(scenes[start : start + 8192], workers)
            out.flush()
        if swaps:
            write_text(sizes_file, json.dumps([len(group) for group in groups]))
        # Last: its presence says that the shard is whole.
        write_text(scenes_file, "\n".join(map(scene_to_json, scenes)))
    scenes = [scene_from_json(line) for line in scenes_file.read_text().splitlines()]
    sizes = json.loads(sizes_file.read_text()) if swaps else [1] * count
    groups = [number for number, size in enumerate(sizes) for _ in range(size)]
    return np.load(pictures, mmap_mode="r"), scenes, groups
