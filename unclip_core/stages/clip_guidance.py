"""CLIP-guided sampling: at every step the predicted x_0 is moved to where CLIP finds it closer to a target.

An extension after Nichol et al. 2021 (GLIDE); the paper's model has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import is_number
from ..clip.model import Clip
from ..config import DecoderConfig
from ..diffusion.denoiser import Edit
from ..diffusion.schedule import Step
from ..types import Embedding, TextEncoding, check_same_clip, expand_rows
from .grid import Grid

# RMS shift of x_0 per step at scale 1 and full noise. The gradient's direction alone counts: its size differs between
# CLIPs by orders of magnitude.
STEP = 0.02


@dataclass(frozen=True)
class ClipGuidance:
    """Guidance by `clip`, of strength `scale`, toward a run's text or, without a text, its embed."""

    clip: Clip
    scale: float

    def check_target(self, who: str, embed: Embedding | None, text: TextEncoding | None) -> None:
        """Raises ValueError where a run has neither, or has one that another CLIP encoded."""
        if text is None and embed is None:
            raise ValueError(
                f"{who}: this decoder is guided by CLIP, which needs a text or an embed to steer to; link one, or take "
                "the decoder from before CLIP Guidance"
            )
        target = embed if text is None else text
        dim = _vector(embed, text).shape[1]
        check_same_clip(who, self.clip.clip_id, self.clip.config.embed_dim, target.clip_id, dim)

    def edit(self, embed: Embedding | None, text: TextEncoding | None, rows: slice, batch: int, grid: Grid) -> Edit:
        """The edit of the predicted x_0 on `grid` for the given rows of `batch`."""
        target = expand_rows(F.normalize(_vector(embed, text).float(), dim=1), batch)[rows].to(self.clip.device)

        def closer(x_0: Tensor, step: Step) -> Tensor:
            gradient = self.gradient(x_0, target, grid)
            size = gradient.square().flatten(1).mean(1).sqrt().clamp_min(1e-12).view(-1, *[1] * (x_0.ndim - 1))
            # sigma^2: at low noise x_0 is all but decided, and what CLIP still likes is no picture.
            return x_0 + self.scale * STEP * step.sigma**2 * gradient / size

        return closer

    def gradient(self, x_0: Tensor, target: Tensor, grid: Grid) -> Tensor:
        """Of the cosine between the picture of each x_0 (B, C, h, w) and its target (B, D), which is on CLIP's device,
        with respect to x_0."""
        # Nodes run under inference mode, whose tensors no gradient passes: clones made outside of it are plain ones.
        with torch.inference_mode(False), torch.enable_grad():
            x = x_0.detach().to(self.clip.device, torch.float32).clone().requires_grad_()
            pixels = grid.small_pixels(x, self.clip.image_size).to(self.clip.device)
            embeds = self.clip.embed_pixels((pixels.clamp(-1.0, 1.0) + 1.0) * 0.5)
            (gradient,) = torch.autograd.grad(F.cosine_similarity(embeds, target.clone(), dim=1).sum(), x)
        return gradient.to(x_0.device)


def clip_guidance(who: str, clip: Clip, scale: float, config: DecoderConfig) -> ClipGuidance | None:
    """Guidance of a decoder by `clip`, None at scale 0. Raises ValueError for a scale that is negative or no number,
    and for a CLIP that the decoder was not trained on: the texts and embeddings of one mean nothing to the other."""
    if not is_number(scale) or scale < 0.0:
        raise ValueError(f"{who}: scale must be a number from 0 up (0 turns CLIP guidance off), got {scale!r}")
    if scale == 0.0:
        return None
    check_same_clip(who, config.clip_id, config.clip_dim, clip.clip_id, clip.config.embed_dim)
    return ClipGuidance(clip, float(scale))


def _vector(embed: Embedding | None, text: TextEncoding | None) -> Tensor:
    return embed.vector if text is None else text.embed
