"""Changing the x_0 that a network predicts, at every step and under any sampler: inpainting and CLIP guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .samplers import Model

# edit(x_0, sigma) -> x_0, both float32: x_0 (B, C, ...) as predicted and clamped, sigma the noise level it came from
Edit = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class EditedModel:
    """A network whose predicted x_0 is changed at every step, one edit after the other.

    Its output is the network's own. Samplers edit the x_0 that they derive from it: an edited x_0 turned back into
    the network's eps would be divided by alpha, 5e-5 at Karlo's first step, and lose its last digits there.
    """

    model: Model
    edits: tuple[Edit, ...]

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.model(x_t, t)

    def edit(self, x_0: Tensor, sigma: float) -> Tensor:
        """x_0 as all edits leave it."""
        for edit in self.edits:
            x_0 = edit(x_0, sigma)
        return x_0


def edit_x0(model: Model, edits: Sequence[Edit]) -> Model:
    """`model` with edits; itself without any."""
    return EditedModel(model, tuple(edits)) if edits else model


def keep_known(known: Tensor, mask: Tensor) -> Edit:
    """Inpainting: x_0 is `known` (B, C, H, W) where mask (B, 1, H, W) is 0, and the network's where it is 1.

    With x_0 known, a sampler's step is a draw of q(x_s | x_t, x_0): the known region carries just the noise of each
    level, as in RePaint (Lugmayr et al. 2022), and the network completes the picture around it.
    """
    return lambda x_0, sigma: torch.lerp(known, x_0, mask)
