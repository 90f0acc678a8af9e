"""DDIM inversion: the start noise x_T from which DDIM at eta 0 paints a given x_0 (paper §3, Dhariwal & Nichol App. F).

DDIM's step from x_t to x_s is undone by solving F(x_t) = x_s. Plain inversion takes the noise predicted at x_s for
that at x_t; a refinement is one damped fixed-point iteration on top, which needs one more forward of the network.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .samplers import Denoise, StepState, ddim
from .schedule import Step, Steps

TOLERANCE = 3e-4  # RMS of F(x_t) - x_s, pixels being -1..1, below which a step counts as solved
UNSOLVED = 1e-2  # the same: above it the refined x_T must decode better than plain inversion's to be kept


@dataclass(frozen=True)
class Inverted:
    """x_T (B, C, ...) and residual (B,): the largest RMS of F(x_t) - x_s over the steps, F being DDIM's step."""

    x_T: Tensor
    residual: Tensor

    def cpu(self) -> Inverted:
        """Both on the CPU."""
        return Inverted(self.x_T.cpu(), self.residual.cpu())


InversionSteps = Generator[StepState, None, Inverted]


def ddim_invert(
    denoise: Denoise, x_0: Tensor, steps: Steps, *, refine: int = 0, tolerance: float = TOLERANCE
) -> InversionSteps:
    """Yields a StepState per step, from the first (cleanest) to the last; x_0 is never clamped.

    denoise, steps: as for the samplers, without clamp and edits; `ddim` over the same steps leads back. refine:
    iterations per step at most. An item keeps, of all iterates of a step, the one with the smallest residual, plain
    DDIM's included. Where a step's residual stays above UNSOLVED, plain inversion runs too, both are decoded with DDIM,
    and the item keeps the x_T whose picture is closer to x_0.
    """
    refined = yield from _invert_all_steps(denoise, x_0, steps, refine, tolerance, 0, 1)
    unsolved = refined.residual > max(UNSOLVED, tolerance)
    if refine == 0 or not unsolved.any():
        return refined
    # Steps that are better one by one need not be better together.
    plain = yield from _invert_all_steps(denoise, x_0, steps, 0, tolerance, 1, 4)
    errors = []
    for part, candidate in enumerate((refined, plain), start=2):
        back = candidate.x_T
        for state in ddim(denoise, candidate.x_T, steps):
            back = state.x_t
            yield replace(state, index=part * len(steps) + state.index, total=4 * len(steps), on_trial=True)
        errors.append(_rms(back - x_0))
    worse = unsolved & ~(errors[0] <= errors[1])  # NaN counts as worse
    x_T = torch.where(_broadcast(worse, x_0), plain.x_T, refined.x_T)
    return Inverted(x_T, torch.where(worse, plain.residual, refined.residual))


def _invert_all_steps(
    denoise: Denoise, x_0: Tensor, steps: Steps, refine: int, tolerance: float, part: int, parts: int
) -> InversionSteps:
    """Once from x_0 to x_T. Its steps are numbered as part `part` of `parts` equal ones."""
    x, total = x_0, len(steps)
    residual = x.new_zeros(len(x))
    # The clean picture has no timestep of its own; the last step's is the nearest.
    eps = denoise(x, steps[-1]).eps
    for index, step in enumerate(reversed(steps)):
        x, x0, eps, step_residual = _invert_step(denoise, x, eps, step, refine, tolerance)
        residual = torch.maximum(residual, step_residual)
        yield StepState(part * total + index, parts * total, step.t, x, x0)
    return Inverted(x, residual)


def _invert_step(
    denoise: Denoise, x_s: Tensor, eps_s: Tensor, step: Step, refine: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x_t, x_0 and eps predicted there, residual (B,)) for one step. eps_s: what plain DDIM takes for eps at x_t."""
    stretch = step.alpha / step.alpha_prev

    def iterate(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x, x_0 and eps predicted at x, and the error F(x) - x_s."""
        predicted = denoise(x, step)
        error = step.alpha_prev * predicted.x0 + step.sigma_prev * predicted.eps - x_s
        return x, predicted.x0, predicted.eps, error

    best = iterate(stretch * (x_s - step.sigma_prev * eps_s) + step.sigma * eps_s)
    residual = _rms(best[3])
    damping = torch.ones_like(residual)
    for _ in range(refine):
        if not (residual > tolerance).any():
            break
        # Fixed point of x_t = stretch (x_s - sigma_s eps(x_t)) + sigma_t eps(x_t), written with the step's own error.
        trial = iterate(best[0] - _broadcast(damping, x_s) * stretch * best[3])
        trial_residual = _rms(trial[3])
        # A solved item is left alone: its result must not depend on the rest of the batch.
        better = (trial_residual < residual) & (residual > tolerance)
        best = tuple(torch.where(_broadcast(better, x_s), new, old) for new, old in zip(trial, best, strict=True))
        residual = torch.where(better, trial_residual, residual)
        damping = torch.where(better, damping, damping * 0.5)
    return best[0], best[1], best[2], residual


def _rms(x: Tensor) -> Tensor:
    return x.flatten(1).square().mean(1).sqrt()


def _broadcast(values: Tensor, x: Tensor) -> Tensor:
    """(B,) -> (B, 1, ...) to broadcast over x."""
    return values.view(-1, *[1] * (x.ndim - 1))
