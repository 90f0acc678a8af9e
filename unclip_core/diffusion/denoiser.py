"""From a network's raw output to what a sampler asks for: guidance, the bound of x_0, and edits of x_0.

`denoise(x_t, step) -> Prediction` is the one thing that samplers and inversion call.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import is_number
from .schedule import Step, interpolate_log_variance, to_x0_eps

EXPLAINED = 4.0  # standard deviations of a mean of white noise, up to which a lattice is taken for noise

# network(x_t, step) -> raw output: eps, x_0 or v, with as many channels more when the variance is learned
Network = Callable[[Tensor, Step], Tensor]
# edit(x_0, step) -> x_0 (B, C, ...) as it should be at this step
Edit = Callable[[Tensor, Step], Tensor]


@dataclass(frozen=True)
class Prediction:
    """What the network makes of x_t (B, C, ...): x_0 and the noise eps, with x_t = alpha x_0 + sigma eps.

    log_variance: of the step to x_s, None where the variance is fixed.
    """

    x0: Tensor
    eps: Tensor
    log_variance: Tensor | None


@dataclass(frozen=True)
class Denoiser:
    """A network with its guidance, the bound of x_0 and the edits of x_0.

    network: called once a step, with B rows, or with 2 B rows where guidance needs a pair (`needs_pair`): the first B
    are conditional, the last B unconditional.
    prediction: what it outputs, "eps", "x0" or "v". learned_variance: whether its second half of channels (dim 1) is a
    variance (Nichol & Dhariwal 2021 eq. 15).
    guidance_scale: uncond + scale * (cond - uncond) of the output, the variance being the conditional half's: it is no
    score, so extrapolating it has no meaning (Ho & Salimans 2021).
    guided_at: timesteps at which guidance works, the network being called with B rows at all others (Kynkäänniemi et
    al. 2024); None: at all.
    x0_clamp: x_0 is kept within -x0_clamp..x0_clamp; None leaves it as it is. x0_quantile: then it is the largest bound
    of a dynamic threshold: each item is bounded by that quantile of its own |x_0|, 1 at the least, and divided by it
    (Saharia et al. 2022, §2.3), so that it lies within -1..1.
    edits: applied in turn to the bounded x_0, whose bound holds for what they make of it too. known: applied last, and
    never bounded: it is data, and latents of a picture need not lie where the network's do. With either, eps is the
    noise that explains x_t by the new x_0.
    """

    network: Network
    prediction: str
    learned_variance: bool = False
    guidance_scale: float = 1.0
    x0_clamp: float | None = None
    x0_quantile: float | None = None
    edits: tuple[Edit, ...] = ()
    known: Edit | None = None
    guided_at: frozenset[int] | None = None

    def __call__(self, x_t: Tensor, step: Step) -> Prediction:
        """The prediction at x_t (B, C, ...), in x_t's dtype. Raises ValueError for a wrong number of channels."""
        output, variance_output = self._guided(x_t, step)
        dynamic = self.x0_clamp is not None and self.x0_quantile is not None
        clamp = None if dynamic else self.x0_clamp
        x0, eps = to_x0_eps(self.prediction, output, x_t, step.alpha, step.sigma, clamp)
        if dynamic:
            x0 = self._thresholded(x0)
        for edit in self.edits:
            x0 = edit(x0, step)
        if self.edits and self.x0_clamp is not None:
            bound = 1.0 if dynamic else self.x0_clamp
            x0 = x0.clamp(-bound, bound)
        if self.known is not None:
            x0 = self.known(x0, step)
        if dynamic or self.edits or self.known is not None:
            eps = (x_t - step.alpha * x0) / step.sigma
        if variance_output is None:
            return Prediction(x0, eps, None)
        log_variance = interpolate_log_variance(variance_output, step.min_log_variance, step.max_log_variance)
        return Prediction(x0, eps, log_variance)

    def _thresholded(self, x0: Tensor) -> Tensor:
        bound = _quantile(x0.flatten(1).abs().float(), self.x0_quantile).clamp(1.0, self.x0_clamp)
        bound = bound.to(x0.dtype).view(-1, *[1] * (x0.ndim - 1))
        return x0.clamp(-bound, bound) / bound

    def _guided(self, x_t: Tensor, step: Step) -> tuple[Tensor, Tensor | None]:
        """The network's output (B, C, ...) after guidance, and its variance channels."""
        unguided = self.guided_at is not None and step.t not in self.guided_at
        if unguided or not needs_pair(self.guidance_scale):
            return self._split(self.network(x_t, step).to(x_t.dtype), x_t)
        pair = self.network(torch.cat([x_t, x_t]), step).to(x_t.dtype)
        conditional, unconditional = pair.chunk(2)
        conditional, variance_output = self._split(conditional, x_t)
        return torch.lerp(unconditional[:, : x_t.shape[1]], conditional, self.guidance_scale), variance_output

    def _split(self, output: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self.learned_variance:
            return output, None
        if output.shape[1] != 2 * x_t.shape[1]:
            raise ValueError(
                f"learned variance needs {2 * x_t.shape[1]} output channels for {x_t.shape[1]} input channels, "
                f"got {output.shape[1]}"
            )
        output, variance_output = output.chunk(2, dim=1)
        return output, variance_output


def _quantile(x: Tensor, share: float) -> Tensor:
    """`torch.quantile` of each row of x (B, N): (B,). That one reckons ranks in float64, which MPS has not."""
    place = share * (x.shape[1] - 1)
    below = math.floor(place)
    ordered = x.sort(dim=1).values
    return torch.lerp(ordered[:, below], ordered[:, math.ceil(place)], place - below)


def needs_pair(scale: float) -> bool:
    """Whether guidance at this scale runs the network on [conditional; unconditional] rows."""
    return scale != 1.0


def check_guidance_scale(who: str, scale: float) -> float:
    """The scale as a float. Raises ValueError unless it is finite and not negative."""
    if not is_number(scale) or scale < 0.0:
        raise ValueError(
            f"{who}: guidance_scale must be a number from 0 up (1 turns guidance off; -1 on a node leaves it to the "
            f"model), got {scale!r}"
        )
    return float(scale)


def keep_known(known: Tensor, mask: Tensor) -> Edit:
    """Inpainting: x_0 is `known` (B, C, H, W) where mask (B, 1, H, W) is 0, and the network's where it is 1.

    With x_0 known, a sampler's step is a draw of q(x_s | x_t, x_0): the known region carries just the noise of each
    level, as in RePaint (Lugmayr et al. 2022), and the network completes the picture around it.
    """
    return lambda x_0, step: torch.lerp(known, x_0, mask)


def edits_of_patches(patch_size: int) -> tuple[Edit, ...]:
    """What is to be done to x_0 (B, C, H, W) of a network that works on patches of this side; 1: on pixels."""
    return (level_phases(patch_size),) if patch_size > 1 else ()


def level_phases(patch_size: int) -> Edit:
    """x_0 (B, C, H, W) without a lattice: no place within the patches is, in the mean over the picture, brighter or
    darker than what is around it.

    A UNet of patches has channels of its own for each place within them, and its GroupNorms take the means of their
    few channels away. So it cannot see how far the noise happens to set one place apart from the others, leaves that in
    x_0, and a lattice of some 2 levels of 255 shows in smooth areas. A pixel is compared with the patches' means,
    interpolated: they hold no lattice, but all slow changes of the picture, which are none. Patches at the border, with
    nothing beyond to interpolate to, are not asked where there are others. At most what white noise explains is taken
    off, 4 standard deviations of a mean over the patches, so that a bold pattern stays. H and W: multiples of
    patch_size.
    """

    def level(x_0: Tensor, step: Step) -> Tensor:
        slow = F.interpolate(F.avg_pool2d(x_0, patch_size), scale_factor=patch_size, mode="bilinear")
        rows, columns = (slice(1, -1) if side > 2 * patch_size else slice(None) for side in x_0.shape[2:])
        asked = _by_patch(x_0 - slow, patch_size)[:, :, rows, :, columns]
        means = asked.mean((2, 4), keepdim=True)
        explained = EXPLAINED / math.sqrt(asked.shape[2] * asked.shape[4])
        apart = (means - means.mean((3, 5), keepdim=True)).clamp(-explained, explained)
        return (_by_patch(x_0, patch_size) - apart).view_as(x_0)

    return level


def _by_patch(x: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) as (B, C, H / patch_size, patch_size, W / patch_size, patch_size)."""
    batch, channels, height, width = x.shape
    return x.view(batch, channels, height // patch_size, patch_size, width // patch_size, patch_size)
