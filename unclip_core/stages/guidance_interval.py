"""Guidance within an interval of noise levels alone, after Kynkäänniemi et al. 2024.

At high noise guidance costs variety, at low noise it changes next to nothing; a step without it is one forward instead
of two.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import is_number
from ..diffusion.schedule import Steps

WHO = "Guidance Interval"


@dataclass(frozen=True)
class GuidanceInterval:
    """start, end: shares of the schedule, 0 pure noise and 1 the picture, between which guidance works, both included.

    The share of timestep t of T is 1 - t / (T - 1), however many steps a run makes. In the paper's noise levels
    sigma / alpha: `Schedule.sqrt_one_minus_alphas_cumprod / sqrt_alphas_cumprod` at t.
    """

    start: float
    end: float

    def __str__(self) -> str:
        return f"{self.start:g} to {self.end:g}"

    def guided_at(self, steps: Steps, timesteps: int) -> frozenset[int]:
        """The timesteps of a run's steps that lie within it. timesteps: T of the schedule."""
        shares = {step.t: 1.0 - step.t / (timesteps - 1) for step in steps}
        return frozenset(t for t, share in shares.items() if self.start <= share <= self.end)


def guidance_interval(start: float, end: float) -> GuidanceInterval | None:
    """The interval, or None for the whole schedule. Raises ValueError unless 0 <= start < end <= 1."""
    for name, value in (("start", start), ("end", end)):
        if not is_number(value):
            raise ValueError(f"{WHO}: {name} must be a number from 0 (noise) to 1 (picture), got {value!r}")
    if not 0.0 <= start < end <= 1.0:
        raise ValueError(
            f"{WHO}: start {start:g} must lie below end {end:g}, both from 0 (noise) to 1 (picture); for no guidance "
            "at all set guidance_scale to 1"
        )
    return None if (start, end) == (0.0, 1.0) else GuidanceInterval(float(start), float(end))
