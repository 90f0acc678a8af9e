"""What an upsampler does wrong, in numbers: a lattice in smooth areas, halos at edges."""

from __future__ import annotations

import torch
from torch import Tensor

from ..training.losses import outside, range_nearby

NEAR, FAR = 2, 6  # of the frequencies that a lattice's are compared with, in steps of the spectrum
EDGE = 0.2  # contrast (0..1) within a window, from which it has an edge


def lattice_energies(pictures: Tensor, period: int) -> tuple[list[float], list[float]]:
    """Spectral power of IMAGE (B, S, S, C) at the frequencies of a lattice of `period` pixels, along either axis and
    both, and mean power at their neighbours: a number a picture each. Their ratio is 1 for noise.

    Hann windows keep the power of edges of the picture out of it. Raises ValueError where S is no multiple of period.
    """
    side = pictures.shape[1]
    if side % period or side // period <= FAR:
        raise ValueError(f"lattice: a period of {period} does not fit pictures of {side} px {side // FAR} times over")
    window = torch.hann_window(side, periodic=True)
    centred = pictures.movedim(-1, 1) - pictures.mean((1, 2))[:, :, None, None]
    power = torch.fft.fft2(centred * window[:, None] * window).abs().square().sum(1)  # (B, S, S)
    step = side // period
    steps = torch.arange(-FAR, FAR + 1)
    ring = torch.maximum(steps[:, None].abs(), steps[None].abs()) >= NEAR
    peaks, around = [], []
    for down, right in ((0, step), (step, 0), (step, step)):
        patch = power[:, (down + steps)[:, None] % side, (right + steps)[None] % side]
        # The picture's own slow changes lie along the axes: they are no measure of what is beside them.
        own = ring & ((steps[:, None] != 0) | torch.tensor(down != 0)) & ((steps[None] != 0) | torch.tensor(right != 0))
        peaks.append(patch[:, FAR, FAR])
        around.append(patch[:, own].mean(1))
    return torch.stack(peaks).sum(0).tolist(), torch.stack(around).sum(0).tolist()


def overshoot(made: Tensor, true: Tensor, factor: int) -> list[float]:
    """How far IMAGE (B, S, S, C) goes beyond every colour that the true picture has near by, in levels of 255: the mean
    over channels and pixels near edges, a number a picture. factor: of the enlargement, a low pixel's width."""
    out, truth = made.movedim(-1, 1), true.movedim(-1, 1)
    low, high = range_nearby(truth, factor)
    edges = ((high - low).amax(1, keepdim=True) > EDGE).float()
    beyond = outside(out, low, high).mean(1, keepdim=True)
    return (255 * (beyond * edges).sum((1, 2, 3)) / edges.sum((1, 2, 3)).clamp(min=1)).tolist()
