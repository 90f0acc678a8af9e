"""What a check of a stack found."""

from __future__ import annotations

from dataclasses import dataclass

OK, FAILED, SKIPPED = "ok", "failed", "skipped"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. status: OK, FAILED or SKIPPED; report: what a failure means and what to do.
    minor: one of many of its kind, that few want to read unless it failed.
    """

    stage: str
    check: str
    status: str
    found: str
    expected: str = ""
    report: str = ""
    minor: bool = False


def in_range(stage: str, check: str, value: float, bounds: tuple[float, float], detail: str, report: str) -> Finding:
    """Whether a value lies within `bounds`. detail: behind the value; report: see Finding."""
    low, high = bounds
    expected = f"{low:g} and more" if high >= 100.0 or (high == 1.0 and low > 0.0) else f"{low:g} to {high:g}"
    status = OK if low <= value <= high * (1 + 1e-6) else FAILED
    return Finding(stage, check, status, f"{value:.3g} {detail}".strip(), expected, report)


def skipped(stage: str, check: str, reason: str) -> Finding:
    """What could not be looked at, and why."""
    return Finding(stage, check, SKIPPED, reason)
