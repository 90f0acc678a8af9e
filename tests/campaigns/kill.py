"""Kills batches of rows and training runs at any moment, starts them again, and looks for what was lost or spoilt.

    python tests/campaigns/kill.py --rows 200 --training 70 --seed 1

Rows: at the end every row is done once, its picture is the right one, and nothing half-written is left. Training: every
stage is killed again and again, while its data is made too; checkpoint, average, optimiser, log and exported file are
then those of a run that was left alone, to the bit, and no step is logged twice. Works in a folder of its own, with
tiny networks on one core, where processes can be forked. Exit code 1 for any finding. Not run by CI:
tests/workflows/rows/test_batch.py and tests/unclip_core/training/test_loop.py kill a few of each.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
STAGES = ("clip", "prior", "ar-prior", "decoder", "upsampler-256", "upsampler-1024", "subject")
PICTURES, BATCH = 12, 2  # of a training: enough to have rows held out, little enough for a kill a second
ROWS = 30  # of a batch
PATIENCE = 600.0  # seconds for one process to get anywhere
TIMES = ("pictures_per_second", "data_share")  # of a line of the log


def start(folder: Path, *arguments: str, fresh: bool = False) -> BaseProcess:
    """`unclip` in a process of its own. It is forked from this one, which has read the libraries: nearly all of a start
    is that. fresh: begun anew, as a user's, with other hashes of texts and so another order of sets."""
    process = multiprocessing.get_context("spawn" if fresh else "fork").Process(
        target=_unclip, args=(folder, arguments)
    )
    process.start()
    return process


def _unclip(folder: Path, arguments: tuple[str, ...]) -> None:
    main_of_unclip, seeds = _read_libraries()
    os.chdir(folder)
    os.environ.update(UNCLIP_CACHE=str(folder / "cache"), UNCLIP_MODELS=str(folder / "models"))
    with (folder / "log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    for seed in seeds:  # what draws from these, where its own seed is meant, differs from process to process
        seed()
    sys.argv = ["unclip", *arguments]
    main_of_unclip()


@functools.cache
def _read_libraries() -> tuple[Callable[[], None], tuple[Callable[[], Any], ...]]:
    """The command, which now knows the preset `tiny` and saves a checkpoint at every step; and what gives the global
    random generators new seeds."""
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(TESTS))
    import numpy
    import open_clip
    import tiny_stack
    import torch
    import torch._dynamo
    from PIL import Image

    from comfyui_unclip.unclip_core.training import loop, plan, start, subject_run, task_decoder
    from comfyui_unclip.workflows import cli

    assert open_clip and start and subject_run  # read here, so that no child has to
    Image.init()
    plan.TRAINABLE["tiny"], plan.RECIPES["tiny"] = tiny_stack.config(), plan.RECIPES["storybook"]
    task_decoder.SHEET_STEPS = 2
    loop.LoopOptions = functools.partial(loop.LoopOptions, log_every=1, save_every=1)  # as the commands find it
    return cli.main, (random.seed, numpy.random.seed, torch.seed)


def killed(process: BaseProcess, rng: random.Random, moved: Callable[[], Any], early: float) -> bool:
    """Kill it some moments after `moved()` changes, or with the chance `early` before; whether it was still alive."""
    before, end = moved(), time.monotonic() + PATIENCE
    if rng.random() < early:
        time.sleep(rng.uniform(0.0, 3.0))
    else:
        while process.is_alive() and moved() == before and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.5) ** 2)  # most of them soon: that is where files are written
    alive = process.is_alive()
    process.kill()
    process.join()
    return alive


def finished(process: BaseProcess, folder: Path) -> Iterator[str]:
    """Wait for the end; a finding if it did not go well."""
    process.join(PATIENCE)
    if process.exitcode != 0:
        process.kill()
        yield f"ended with {process.exitcode}: {(folder / 'log').read_text()[-1500:]}"


def leftovers(folder: Path) -> Iterator[str]:
    """A finding for each file that was not finished, and each lock of a job that is."""
    for path in folder.rglob(".*"):
        if path.name.startswith((".unclip-", ".job-")):
            yield f"left: {path}"


# --- Rows ------------------------------------------------------------------------------------------------------------


def rows(kills: int, rng: random.Random) -> list[str]:
    """Batches, each killed some times and brought to its end; returns the findings."""
    found, done, batches = [], 0, 0
    while done < kills:
        with tempfile.TemporaryDirectory(prefix="unclip-campaign-") as place:
            batches += 1
            folder, out = Path(place), Path(place) / "out"
            graph = {
                "1": {"class_type": "Caption", "inputs": {"text": "a"}},
                "2": {
                    "class_type": "Paint",
                    "inputs": {"caption": ["1", 0], "seed": 0, "scale": 1.0, "seconds": 0.02, "side": 4},
                },
                "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "sub/x"}},
            }
            (folder / "graph.json").write_text(json.dumps(graph))
            pack = str(TESTS / "workflows" / "paint_pack.py")
            command = ["run", "graph.json", "--nodes", pack, "-o", "out", "-q", "--sweep", f"seed=0..{ROWS - 1}"]
            lines = out / "results.jsonl"

            def written(lines: Path = lines) -> int:
                return lines.stat().st_size if lines.exists() else 0

            for _ in range(rng.randint(1, 6)):
                if done < kills:
                    done += killed(start(folder, *command, "--resume"), rng, written, 0.2)
            found += [f"batch {batches}: {wrong}" for wrong in finished(start(folder, *command, "--resume"), folder)]
            found += [f"batch {batches}: {wrong}" for wrong in (*_wrong_rows(out), *leftovers(out))]
    print(f"rows: {done} kills of {batches} batches of {ROWS} rows; {len(found)} findings")
    return found


def _wrong_rows(out: Path) -> Iterator[str]:
    from PIL import Image

    seen: dict[int, int] = {}
    for text in (out / "results.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # torn by a kill
        seen[line["row"]] = seen.get(line["row"], 0) + 1
        shade = Image.open(out / line["outputs"][0]).getpixel((0, 0))[0]
        if shade != 16 + line["inputs"]["seed"]:
            yield f"row {line['row']} has the picture of another"
    if sorted(seen) != list(range(1, ROWS + 1)) or set(seen.values()) != {1}:
        yield f"rows and how often they were done: {seen}"


# --- Training --------------------------------------------------------------------------------------------------------


def training(kills: int, rng: random.Random, stages: tuple[str, ...], steps: int) -> list[str]:
    """Each stage left alone, and killed `kills / len(stages)` times; returns the findings."""
    found = []
    with tempfile.TemporaryDirectory(prefix="unclip-campaign-") as place:
        folder = Path(place)
        _furnish(folder)
        for stage in stages:
            command = ["train", stage, "--batch", str(BATCH), "--steps", str(steps), "--device", "cpu"]
            command += ["--dtype", "fp32", *_given(stage, folder)]
            shutil.rmtree(folder / "cache", ignore_errors=True)  # data is made, and may be killed, for each stage
            run = folder / "killed" / stage

            def step(run: Path = run) -> int:
                path = run / "checkpoint.pt"
                return path.stat().st_mtime_ns if path.exists() else 0

            wanted, done = -(-kills // len(stages)), 0
            while done < wanted:
                if (run / "finished.json").exists():  # too quick: once more from the beginning
                    shutil.rmtree(run)
                done += killed(start(folder, *command, "--run", str(run)), rng, step, 0.15)
            wrong = list(finished(start(folder, *command, "--run", str(run)), folder))
            alone = folder / "alone" / stage
            shutil.rmtree(folder / "cache", ignore_errors=True)
            wrong += finished(start(folder, *command, "--run", str(alone), fresh=True), folder)
            wrong += _differences(alone, run) if not wrong else []
            wrong += [*leftovers(run), *leftovers(folder / "cache")]
            print(f"training {stage}: {done} kills in {steps} steps; {len(wrong)} findings", flush=True)
            found += [f"{stage}: {each}" for each in wrong]
    return found


def _furnish(folder: Path) -> None:
    """The installed model `tiny`, and pictures of a subject."""
    from PIL import Image

    building = multiprocessing.get_context("fork").Process(target=_build, args=(folder / "models" / "tiny",))
    building.start()  # torch computes in no process that is forked
    building.join()
    (folder / "cup").mkdir()
    for number in range(4):
        Image.effect_noise((80, 70), 40 + 10 * number).convert("RGB").save(folder / "cup" / f"{number}.png")


def _build(folder: Path) -> None:
    _read_libraries()
    import tiny_stack

    folder.mkdir(parents=True)
    tiny_stack.build(folder)


def _given(stage: str, folder: Path) -> list[str]:
    """What the command of a stage is told besides."""
    if stage == "subject":
        subject = ["--pictures", str(folder / "cup"), "--word", "sks_cup", "--class", "star", "--class-pictures", "12"]
        return [*subject, "--model", "tiny", "--rank", "2", "--loras", str(folder / "loras")]
    scenes = ["--preset", "tiny", "--pictures", str(PICTURES)]
    return scenes if stage == "clip" else [*scenes, "--clip", "tiny"]


def _differences(alone: Path, run: Path) -> Iterator[str]:
    """What is not the same to the bit in two run folders."""
    import torch
    from safetensors.torch import load_file

    one, two = (torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (alone, run))
    for part in ("step", "network", "ema", "optimiser"):
        if not _equal(one[part], two[part]):
            yield f"{part} of the checkpoint differs"
    (exported,) = alone.glob("*.safetensors")
    if not _equal(load_file(exported), load_file(run / exported.name)):
        yield "the exported weights differ"
    logs = []
    for folder in (alone, run):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        timeless = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
        logs.append(timeless)
    if logs[0] != logs[1]:
        yield f"the logs differ: {[pair for pair in zip(*logs, strict=False) if pair[0] != pair[1]][:3]}"


def _equal(one: Any, two: Any) -> bool:
    import torch

    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_equal(value, two[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(_equal, one, two))
    return one == two


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200, help="kills of batches")
    parser.add_argument("--training", type=int, default=70, help="kills of training runs, as many of each stage")
    parser.add_argument("--stages", default=",".join(STAGES), help="the stages to train")
    parser.add_argument("--steps", type=int, default=24, help="of a training run")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    _read_libraries()
    found = rows(options.rows, rng) if options.rows else []
    found += (
        training(options.training, rng, tuple(options.stages.split(",")), options.steps) if options.training else []
    )
    for line in found:
        print(f"  {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
