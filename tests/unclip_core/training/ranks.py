"""What one process of a distributed run does: run by `test_distributed.py` under torchrun, and without it.

    python ranks.py OUT TINY_CLIP STAGES STEPS [KILL_AT]

KILL_AT: the second process ends there, as if its machine had died.
"""

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from comfyui_unclip.unclip_core.checkpoints.native import load_stage
from comfyui_unclip.unclip_core.clip.model import Clip
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

BATCH, MICRO = 8, 2


def tiny_configs():
    """The configs of the stack `tiny`."""
    path = Path(__file__).parents[2] / "tiny_stack.py"
    specification = importlib.util.spec_from_file_location("tiny_stack", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.config()


def task_of(stage, configs, data, clip, cache, recipe):
    """The stage's task on rendered scenes."""
    if stage == "clip":
        return ClipTask(replace(configs.clip, vocabulary=vocabulary(), context_length=32), data, recipe)
    if stage in EMBEDDING_TASKS:
        return EMBEDDING_TASKS[stage](getattr(configs, stage), data, clip, image_embeddings(clip, data, cache), recipe)
    return UpsamplerTask(stage, getattr(configs, stage), data, recipe)


def main(out, clip_file, stages, steps, kill_at=0):
    """Train the stages, each in a folder of its own."""
    torch.set_num_threads(1)
    task_decoder.SHEET_STEPS = 2
    configs, out = tiny_configs(), Path(out)
    with joined(torch.device("cpu")):
        world = this_world()
        with world.first_alone():
            data = StorybookData(out / "data", 64, seed=1)
        _, config, state = load_stage(clip_file)
        clip = Clip.from_config(config, state)
        for stage in stages.split(","):
            recipe = replace(STORYBOOK_RECIPES[stage], steps=int(steps), batch=BATCH, micro_batch=MICRO, adam_eps=1e-3)
            with world.first_alone():
                task = task_of(stage, configs, data, clip, out / "embeddings", recipe)
            options = LoopOptions(dtype="fp32", log_every=1, save_every=4, sheet_every=1000)
            for progress in train(task, recipe, out / stage, len(data), options=options):
                if progress.step == int(kill_at) and world.rank == 1:
                    os._exit(3)


if __name__ == "__main__":
    main(*sys.argv[1:])
