"""Changing the x_0 that a network predicts, at every step and under any sampler: inpainting and CLIP guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .samplers import Model
from .schedule import ScheduleSteps, to_x0_eps

# edit(x_0, sigma) -> x_0, both float32: x_0 (B, C, ...) as predicted, sigma (B, 1, ...) the noise level it came from
Edit = Callable[[Tensor, Tensor], Tensor]


def edit_x0(
    model: Model, schedule_steps: ScheduleSteps, edits: list[Edit], x0_clamp: float | None, device: torch.device
) -> Model:
    """`model` whose output stands for an edited x_0; what it predicts is clamped first, as the sampler would.

    Every sampler's next x then follows from the edited x_0 and the noise that explains x_t by it.
    """
    if not edits:
        return model
    prediction = schedule_steps.prediction
    levels = torch.ones(schedule_steps.timesteps[0] + 1, 2)
    for step in schedule_steps:
        levels[step.t] = torch.tensor([step.alpha, step.sigma])
    levels = levels.to(device)  # looked up there, so that nobody waits for t

    def edited(x_t: Tensor, t: Tensor) -> Tensor:
        output, channels = model(x_t, t).to(x_t.dtype), x_t.shape[1]
        alpha, sigma = levels[t].view(-1, 2, *[1] * (x_t.ndim - 1)).unbind(1)  # each (B, 1, ...)
        x_0, _ = to_x0_eps(prediction, output[:, :channels], x_t, alpha, sigma, x0_clamp)
        for edit in edits:
            x_0 = edit(x_0, sigma)
        eps = (x_t - alpha * x_0) / sigma
        edited_output = {"x0": x_0, "eps": eps, "v": alpha * eps - sigma * x_0}[prediction]
        return torch.cat([edited_output, output[:, channels:]], dim=1)

    return edited


def keep_known(known: Tensor, mask: Tensor) -> Edit:
    """Inpainting: x_0 is `known` (B, C, H, W) where mask (B, 1, H, W) is 0, and the network's where it is 1.

    With x_0 known, a sampler's step is a draw of q(x_s | x_t, x_0): the known region carries just the noise of each
    level, as in RePaint (Lugmayr et al. 2022), and the network completes the picture around it.
    """
    return lambda x_0, sigma: torch.lerp(known, x_0, mask)
