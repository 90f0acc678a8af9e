"""Fixtures of all core tests."""

import pytest
import torch

from comfyui_unclip.unclip_core.training.data import StorybookData


@pytest.fixture
def randomise():
    """Give every parameter of a module random values: zero-initialised layers would hide mistakes."""

    def apply(module, seed=0):
        generator = torch.Generator().manual_seed(seed)
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = (noise * fan_in**-0.5).to(parameter.dtype)
        return module.eval()

    return apply


@pytest.fixture(scope="session")
def story_folder(tmp_path_factory):
    """Where the shards of 64 scenes lie, once `story` has drawn them."""
    return tmp_path_factory.mktemp("data") / "storybook"


@pytest.fixture(scope="session")
def story(story_folder):
    """64 rendered scenes."""
    return StorybookData(story_folder, 64, seed=1)
