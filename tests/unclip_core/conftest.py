"""Fixtures of all core tests."""

import gc
import json

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


@pytest.fixture
def peak_bytes(tmp_path):
    """peak_bytes(run) -> the most that tensors took at any time of `run()`, by the profiler's record of every
    allocation."""

    def measure(run):
        run()  # packing weights is no part of a step
        gc.collect()  # what other tests left would be freed while this one is measured
        with torch.profiler.profile(profile_memory=True) as profile:
            run()
        path = tmp_path / "trace.json"
        profile.export_chrome_trace(str(path))
        events = [event for event in json.loads(path.read_text())["traceEvents"] if event.get("name") == "[memory]"]
        taken = torch.tensor([event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])])
        return taken.cumsum(0).max().item()

    return measure


@pytest.fixture(scope="session")
def story_folder(tmp_path_factory):
    """Where the shards of 64 scenes lie, once `story` has drawn them."""
    return tmp_path_factory.mktemp("data") / "storybook"


@pytest.fixture(scope="session")
def story(story_folder):
    """64 rendered scenes."""
    return StorybookData(story_folder, 64, seed=1)
