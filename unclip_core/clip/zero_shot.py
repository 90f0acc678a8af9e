"""What CLIP takes a picture for, among labels it was never trained to tell apart (§4, Fig. 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .model import Clip

MAX_LABELS = 100


@torch.no_grad()
def classify(clip: Clip, image: Tensor, labels: list[str]) -> Tensor:
    """Probabilities (B, len(labels)) float32: the softmax of CLIP's similarities at its own temperature.

    image: IMAGE (B, H, W, C). Raises ValueError for an empty list, an empty or repeated label, or more than 100.
    """
    check_labels(labels)
    image_embed = F.normalize(clip.encode_image(image).vector, dim=-1)
    text_embed = F.normalize(clip.encode_text(labels).embed, dim=-1)
    scale = clip.text_placed.read().logit_scale.detach().float().exp().cpu()
    return (scale * image_embed @ text_embed.T).softmax(-1)


def check_labels(labels: list[str]) -> None:
    """Raises ValueError with the label and the fix."""
    who = "Zero-Shot Classify"
    if not labels or not all(label.strip() for label in labels):
        raise ValueError(f"{who}: the list of labels is empty; write one label a line, such as 'a red apple'")
    if len(labels) > MAX_LABELS:
        raise ValueError(f"{who}: {len(labels)} labels are too many; keep to {MAX_LABELS}")
    if repeated := [label for index, label in enumerate(labels) if label in labels[:index]]:
        raise ValueError(f"{who}: label {repeated[0]!r} is there twice; remove one")
