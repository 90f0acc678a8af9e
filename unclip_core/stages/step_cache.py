"""Steps that run a U-Net's outer blocks alone and take an earlier step's deep features: DeepCache, Ma et al. 2023.

Approximate, therefore off unless asked for; inversion, which undoes steps exactly, never uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..checks import is_whole
from ..config import UNetConfig
from ..diffusion.schedule import Step, Steps
from ..models.unet import DeepFeatures

WHO = "Step Cache"


@dataclass(frozen=True)
class StepCache:
    """interval: the whole network runs at every so many-th step, from the first. depth: blocks on the way down, and on
    the way up, that run at every step."""

    interval: int
    depth: int

    def memory(self, steps: Steps) -> Callable[[Step], DeepFeatures]:
        """For one run of these steps over one batch: what the network is given at each."""
        deep, whole = DeepFeatures(self.depth), {step.t for step in steps[:: self.interval]}

        def at(step: Step) -> DeepFeatures:
            deep.reuse = step.t not in whole
            return deep

        return at


def step_cache(name: str, config: UNetConfig, interval: int, depth: int) -> StepCache | None:
    """A cache for the U-Net of the stage `name`, or None at interval 1, where every step is whole.

    Raises ValueError for numbers out of range: interval from 1, depth from 1 to the U-Net's skip connections.
    """
    if not is_whole(interval) or interval < 1:
        raise ValueError(f"{WHO}: interval must be a whole number from 1 (off) up, got {interval!r}")
    if not is_whole(depth) or not 1 <= depth <= config.skip_count:
        raise ValueError(
            f"{WHO}: depth must be a whole number from 1 to {config.skip_count}, the blocks on either way through the "
            f"U-Net of this {name}, got {depth!r}"
        )
    return None if interval == 1 else StepCache(interval, depth)
