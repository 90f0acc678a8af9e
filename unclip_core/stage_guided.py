"""CLIP-guided sampling: at every step the predicted x_0 is moved to where CLIP finds it closer to a target."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .clip import Clip
from .diffusion.edits import Edit
from .types import Embedding, TextEncoding, check_same_clip, expand_rows

# RMS shift of x_0 per step at scale 1 and full noise. The gradient's direction alone counts: its size differs between
# CLIPs by orders of magnitude.
STEP = 0.02


@dataclass(frozen=True)
class ClipGuide:
    """The pull toward target (B, D), of unit norm, as `clip` sees pictures. An extension after Nichol et al. 2021."""

    clip: Clip
    target: Tensor
    scale: float

    def edit(self, rows: slice, batch: int) -> Edit:
        """The edit of the predicted x_0 for the given rows of `batch`."""
        target = expand_rows(self.target, batch)[rows]

        def pulled(x_0: Tensor, sigma: float) -> Tensor:
            gradient = self.gradient(x_0, target)
            size = gradient.square().flatten(1).mean(1).sqrt().clamp_min(1e-12).view(-1, *[1] * (x_0.ndim - 1))
            # sigma^2: at low noise x_0 is all but decided, and what CLIP still likes is no picture.
            return x_0 + self.scale * STEP * sigma**2 * gradient / size

        return pulled

    def gradient(self, x_0: Tensor, target: Tensor) -> Tensor:
        """Of the cosine between each x_0 (B, 3, H, W) in -1..1 and its target (B, D), with respect to x_0."""
        # Nodes run under inference mode, whose tensors no gradient passes: clones made outside of it are plain ones.
        with torch.inference_mode(False), torch.enable_grad():
            x = x_0.detach().to(self.clip.device, torch.float32).clone().requires_grad_()
            seen = self.clip.embed_pixels((x.clamp(-1.0, 1.0) + 1.0) * 0.5)
            wanted = target.to(self.clip.device).clone()
            (gradient,) = torch.autograd.grad(F.cosine_similarity(seen, wanted, dim=1).sum(), x)
        return gradient.to(x_0.device)


def clip_guide(
    who: str, clip: Clip | None, scale: float | None, embed: Embedding | None, text: TextEncoding | None
) -> ClipGuide | None:
    """The guide for a sampler's inputs, None at scale 0. The target is the text, without one the embedding.

    Raises ValueError for a scale without a CLIP or a target, a negative scale or another CLIP's target.
    """
    scale = 0.0 if scale is None else scale
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or scale < 0.0:
        raise ValueError(f"{who}: clip_scale must be a number from 0 up (0 turns CLIP guidance off), got {scale!r}")
    if scale == 0.0:
        return None
    if clip is None:
        raise ValueError(f"{who}: clip_scale {scale} needs a CLIP; link CLIP of Load unCLIP, or set clip_scale to 0")
    if text is None and embed is None:
        raise ValueError(f"{who}: clip_scale {scale} needs a text or an embed to steer to; link one, or set it to 0")
    target = text if text is not None else embed
    vector = text.embed if text is not None else embed.vector
    check_same_clip(who, clip.clip_id, clip.config.embed_dim, target.clip_id, vector.shape[1])
    return ClipGuide(clip, F.normalize(vector.float(), dim=1), float(scale))
