"""Two processes learn what one learns, and a run goes on with another number of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from comfyui_unclip.unclip_core.config import STAGES

SCRIPT = Path(__file__).with_name("ranks.py")
STEPS = 20


def launch(processes, *arguments):
    """Run the script in so many processes; returns the exit status."""
    command = [sys.executable, str(SCRIPT)]
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", "0"]
        command = [sys.executable, *torchrun, str(SCRIPT)]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=900)
    if done.returncode and "kill" not in str(arguments[0]):
        pytest.fail(done.stderr[-3000:])
    return done.returncode


def weights(folder):
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    return state["step"], {**{f"network.{k}": v for k, v in state["network"].items()}, **state["ema"]}


def losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def assert_same(one, two):
    """Weights within 1e-5, losses too, of the same number of steps."""
    (step, first), (same, second) = weights(one), weights(two)
    assert step == same == STEPS and first.keys() == second.keys()
    furthest = max((value - second[name]).abs().max().item() for name, value in first.items())
    assert furthest < 1e-5, f"{one.name}: {furthest}"
    assert losses(one).keys() == losses(two).keys() == set(range(1, STEPS + 1))
    assert max(abs(value - losses(two)[step]) for step, value in losses(one).items()) < 1e-4


@pytest.fixture(scope="module")
def clip_file(tiny_models):
    return tiny_models / "tiny" / "clip.safetensors"


@pytest.fixture(scope="module")
def alone(tmp_path_factory, clip_file):
    """Every stage, trained by one process that accumulates gradients."""
    folder = tmp_path_factory.mktemp("alone")
    launch(1, folder, clip_file, ",".join(STAGES), STEPS)
    return folder


def test_two_processes_learn_what_one_learns_in_every_stage(alone, clip_file, tmp_path):
    launch(2, tmp_path, clip_file, ",".join(STAGES), STEPS)
    for stage in STAGES:
        assert_same(alone / stage, tmp_path / stage)
        assert (tmp_path / stage / f"{stage}.safetensors").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_of_which_one_process_died_goes_on_with_one_or_with_two(processes, alone, clip_file, tmp_path):
    folder = tmp_path / "killed"
    for stage in ("clip", "decoder"):
        assert launch(2, folder, clip_file, stage, STEPS, 11) != 0
        assert weights(folder / stage)[0] == 8  # the last checkpoint before
        assert launch(processes, folder, clip_file, stage, STEPS) == 0
        assert_same(alone / stage, folder / stage)


def test_a_step_that_cannot_be_shared_evenly_is_refused(monkeypatch):
    from comfyui_unclip.unclip_core.training import loop
    from comfyui_unclip.unclip_core.training.recipes import Recipe
    from comfyui_unclip.unclip_core.training.world import World

    class Task:
        stage = "toy"

        def build(self):
            return torch.nn.Linear(1, 1)

    recipe = Recipe(steps=1, batch=6, lr=1.0, micro_batch=2)
    with pytest.raises(
        ValueError, match="3 micro-batches, which 2 processes cannot share evenly; set Recipe.micro_batch to 3"
    ):
        loop._Run(Task(), recipe, None, 10, None, {}, loop.LoopOptions(), World(0, 2))
