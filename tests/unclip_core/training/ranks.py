"""Runs of one process and of two, for `test_distributed.py`: what is imported once is forked for each of them.

    python ranks.py OUT TINY_CLIP

OUT/alone/STAGE     one process, which accumulates gradients
OUT/two/STAGE       two processes
OUT/killed-N/STAGE  two processes of which the second dies in step KILLED + 1, then N that go on
"""

import contextlib
import json
import os
import shutil
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import open_clip  # noqa: F401  what every process would otherwise import for itself
import torch

from comfyui_unclip.tests import tiny_stack
from comfyui_unclip.tests.stage_file import load_stage
from comfyui_unclip.unclip_core.clip.model import Clip
from comfyui_unclip.unclip_core.config import STAGES
from comfyui_unclip.unclip_core.storybook.captions import vocabulary
from comfyui_unclip.unclip_core.training import task_decoder
from comfyui_unclip.unclip_core.training.data import StorybookData
from comfyui_unclip.unclip_core.training.embeddings import image_embeddings
from comfyui_unclip.unclip_core.training.loop import LoopOptions, train
from comfyui_unclip.unclip_core.training.recipes import STORYBOOK_RECIPES
from comfyui_unclip.unclip_core.training.start import EMBEDDING_TASKS
from comfyui_unclip.unclip_core.training.task_clip import ClipTask
from comfyui_unclip.unclip_core.training.task_upsampler import UpsamplerTask
from comfyui_unclip.unclip_core.training.world import joined, this_world

STEPS, BATCH, MICRO = 20, 8, 2
KILLED = 11
PATIENCE = 300  # seconds for a job


def recipe_of(stage):
    """The stage's own recipe at its full rate, for its weights to move within 20 steps.

    adam_eps is above the rounding of a sum of gradients, which Adam would otherwise take for a direction where the
    gradient is nothing (a key's bias in attention).
    """
    changes = {"steps": STEPS, "batch": BATCH, "micro_batch": MICRO, "warmup": 2, "decay": False, "adam_eps": 3e-5}
    return replace(STORYBOOK_RECIPES[stage], **changes)


def task_of(stage, clip_file, folder, recipe):
    """The stage's task on rendered scenes, and how many those are."""
    configs = tiny_stack.config()
    with this_world().first_alone():
        data = StorybookData(folder / "data", 64, seed=1)
        if stage == "clip":
            task = ClipTask(replace(configs.clip, vocabulary=vocabulary(), context_length=32), data, recipe)
        elif stage in EMBEDDING_TASKS:
            _, config, state = load_stage(clip_file)
            clip = Clip(config, state)
            embeddings = image_embeddings(clip, data, folder / "embeddings")
            task = EMBEDDING_TASKS[stage](getattr(configs, stage), data, clip, embeddings, recipe)
        else:
            task = UpsamplerTask(stage, getattr(configs, stage), data, recipe)
    return task, len(data)


def train_stages(folder, clip_file, stages, dies_at=None):
    """What one process does."""
    torch.set_num_threads(1)
    task_decoder.SHEET_STEPS = 2
    options = LoopOptions(dtype="fp32", log_every=1, save_every=4, sheet_every=1000)
    with joined(torch.device("cpu")) as world:
        for stage in stages:
            recipe = recipe_of(stage)
            task, rows = task_of(stage, clip_file, folder, recipe)
            for progress in train(task, recipe, folder / stage, rows, options=options):
                if progress.step == dies_at and world.rank == 1:
                    os._exit(3)


def in_processes(count, *arguments):
    """`train_stages` in so many forked processes; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        child = os.fork()
        if not child:
            code = 1
            with contextlib.suppress(BaseException):
                if count > 1:
                    where = {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                    os.environ.update({name: str(value) for name, value in where.items()})
                train_stages(*arguments)
                code = 0
            os._exit(code)
        children.append(child)
    end = time.monotonic() + PATIENCE
    codes = {}
    while len(codes) < count:
        for child in set(children) - codes.keys():
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[child] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                os.kill(child, 9)
        time.sleep(0.05)
    return [codes[child] for child in children]


def main(out, clip_file):
    """All runs; their exit codes as JSON in OUT/codes.json."""
    out, codes = Path(out), {}
    for name, count in (("alone", 1), ("two", 2)):
        codes[name] = in_processes(count, out / name, clip_file, STAGES)
    for stage in STAGES:
        killed = out / "killed-2"
        codes[f"killed {stage}"] = in_processes(2, killed, clip_file, (stage,), KILLED)
        codes[f"saved {stage}"] = torch.load(killed / stage / "checkpoint.pt", weights_only=True)["step"]
        shutil.copytree(killed / stage, out / "killed-1" / stage)
        for count in (1, 2):
            codes[f"killed-{count} {stage}"] = in_processes(count, out / f"killed-{count}", clip_file, (stage,))
    (out / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(*sys.argv[1:])
