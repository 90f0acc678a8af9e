"""The tiny stack's configs and CLIP."""

import dataclasses

import pytest

from comfyui_unclip.tests import tiny_stack
from comfyui_unclip.tests.stage_file import load_stage
from comfyui_unclip.unclip_core.clip.model import Clip
from comfyui_unclip.unclip_core.storybook.captions import vocabulary
from comfyui_unclip.unclip_core.training import task_decoder


@pytest.fixture(scope="session")
def tiny_configs():
    """The configs of the stack `tiny`."""
    return tiny_stack.config()


@pytest.fixture(scope="session")
def tiny_clip(tiny_models):
    """The CLIP of the stack `tiny`, frozen, with random weights."""
    _, config, state = load_stage(tiny_models / "tiny" / "clip.safetensors")
    return Clip(config, state)


@pytest.fixture(scope="session")
def story_clip_config(tiny_configs):
    """The tiny CLIP's config with the storybook's own vocabulary."""
    return dataclasses.replace(tiny_configs.clip, vocabulary=vocabulary(), context_length=32)


@pytest.fixture(autouse=True)
def _short_sheets(monkeypatch):
    """Sheets of painted pictures take a step or two, not twenty."""
    monkeypatch.setattr(task_decoder, "SHEET_STEPS", 2)
