"""A native stage's file as safetensors itself reads it, to hold against what was written and what our loader makes."""

from safetensors.torch import load_file

from comfyui_unclip.unclip_core.checkpoints.header import read_stage


def load_stage(path):
    """(stage, config, tensors by name)."""
    found = read_stage(path)
    return found.stage, found.config, load_file(path)
