"""Two processes learn what one learns, and a run goes on with another number of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from comfyui_unclip.unclip_core.config import STAGES
from comfyui_unclip.unclip_core.training import loop
from comfyui_unclip.unclip_core.training.recipes import Recipe
from comfyui_unclip.unclip_core.training.world import World

SCRIPT = Path(__file__).with_name("ranks.py")
STEPS = 20


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_models):
    """All runs of ranks.py, and the exit codes of their processes."""
    if not hasattr(os, "fork"):
        pytest.skip("forks processes")
    out = tmp_path_factory.mktemp("runs")
    command = [sys.executable, str(SCRIPT), str(out), str(tiny_models / "tiny" / "clip.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr
    return out, json.loads((out / "codes.json").read_text())


def weights(path):
    """Network and average of a checkpoint."""
    state = torch.load(path, weights_only=True)
    return state["step"], {**{f"network.{k}": v for k, v in state["network"].items()}, **state["ema"]}


def losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def furthest(one, two):
    """The largest difference of two checkpoints."""
    assert one.keys() == two.keys()
    return max((value - two[name]).abs().max().item() for name, value in one.items())


def assert_same(one, two):
    """The same weights and the same curve of losses, of weights that have moved by far more than they may differ."""
    (step, first), (same, second) = weights(one / "checkpoint.pt"), weights(two / "checkpoint.pt")
    assert step == same == STEPS
    assert furthest(first, second) < 1e-5
    assert furthest(first, weights(one / "checkpoint.previous.pt")[1]) > 1e-3
    curve, again = losses(one), losses(two)
    assert [step for step, _ in curve] == [step for step, _ in again] == list(range(1, STEPS + 1))
    assert max(abs(loss - other) for (_, loss), (_, other) in zip(curve, again, strict=True)) < 1e-4
    assert (two / f"{two.name}.safetensors").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_learn_what_one_learns(runs, stage):
    out, codes = runs
    assert codes["alone"] == [0] and codes["two"] == [0, 0]
    assert_same(out / "alone" / stage, out / "two" / stage)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_of_which_one_process_died_goes_on_with_one_or_with_two(runs, stage, processes):
    out, codes = runs
    first, second = codes[f"killed {stage}"]
    assert first == 1 and second == 3  # the one that is left ends too, with an error
    assert codes[f"saved {stage}"] == 8
    assert codes[f"killed-{processes} {stage}"] == [0] * processes
    assert_same(out / "alone" / stage, out / f"killed-{processes}" / stage)


def test_a_step_that_cannot_be_shared_evenly_is_refused():
    class Task:
        stage = "toy"

        def build(self):
            return torch.nn.Linear(1, 1)

    recipe = Recipe(steps=1, batch=6, lr=1.0, micro_batch=2)
    with pytest.raises(ValueError, match="3 micro-batches, which 2 processes cannot share evenly"):
        loop._Run(Task(), recipe, None, 10, None, {}, loop.LoopOptions(), World(0, 2))
