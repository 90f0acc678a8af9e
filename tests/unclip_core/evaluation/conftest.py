"""A judge's training set, and the handles of the stack `tiny`."""

import pytest

from comfyui_unclip.unclip_core.checkpoints.catalog import read_stack
from comfyui_unclip.unclip_core.loading import load_stack
from comfyui_unclip.unclip_core.training.data import StorybookData


@pytest.fixture(scope="session")
def renders(tmp_path_factory):
    """128 rendered scenes."""
    return StorybookData(tmp_path_factory.mktemp("renders"), 128, seed=1)


@pytest.fixture(scope="session")
def handles(tiny_models):
    """Every stage of the stack `tiny`, in float32."""
    return load_stack(read_stack(tiny_models / "tiny"), "fp32")
