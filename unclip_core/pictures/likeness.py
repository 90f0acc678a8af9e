"""How like one picture is to another."""

from __future__ import annotations

from torch import Tensor


def psnr(made: Tensor, true: Tensor, span: float = 1.0) -> float:
    """Peak signal-to-noise ratio of pictures (B, ...) in dB, mean over the batch; equal ones get 100.

    span: from black to white, 1 for IMAGE, 2 for pictures in -1..1. Of 8-bit pictures one level is 48 dB.
    """
    return float(_by_picture(made, true, span).mean())


def psnrs(made: Tensor, true: Tensor, span: float = 1.0) -> list[float]:
    """`psnr` of each picture by itself."""
    return _by_picture(made, true, span).tolist()


def _by_picture(made: Tensor, true: Tensor, span: float) -> Tensor:
    errors = ((made.float() - true.float()) / span).square().flatten(1).mean(1).clamp(min=1e-10)
    return -10 * errors.log10()
