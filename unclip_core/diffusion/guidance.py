"""Classifier-free guidance (Ho & Salimans 2021): one batched forward for the pair, or a single one at scale 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .samplers import Model


def check_guidance_scale(who: str, scale: float) -> float:
    """The scale as a float. Raises ValueError unless it is finite and not negative."""
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or scale < 0.0:
        raise ValueError(
            f"{who}: guidance_scale must be a number from 0 up (1 turns guidance off; -1 on a node leaves it to the "
            f"model), got {scale!r}"
        )
    return float(scale)


def needs_pair(scale: float) -> bool:
    """Whether `guide` calls the network on [conditional; unconditional] rows rather than on the conditional ones."""
    return scale != 1.0


def guide(model: Model, scale: float, *, learned_variance: bool = False) -> Model:
    """`model` with guidance: uncond + scale * (cond - uncond), computed in float32.

    At scale 1 this is `model` itself. Otherwise `model` is called once per step with 2 B rows, and must condition the
    first B rows and leave the last B unconditional. The variance channels (the second half of dim 1, when
    `learned_variance`) are the conditional half's: they are not a score, so extrapolating them has no meaning.
    """
    if not needs_pair(scale):
        return model

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        conditional, unconditional = model(torch.cat([x_t, x_t]), torch.cat([t, t])).to(x_t.dtype).chunk(2)
        if not learned_variance:
            return torch.lerp(unconditional, conditional, scale)
        conditional, variance = conditional.chunk(2, dim=1)
        unconditional = unconditional[:, : conditional.shape[1]]
        return torch.cat([torch.lerp(unconditional, conditional, scale), variance], dim=1)

    return guided
