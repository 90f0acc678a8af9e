"""Fixtures of all core tests."""

import pytest
import torch


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
