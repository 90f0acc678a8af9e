"""Sample sheets: pictures side by side, as PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..disk import whole_file


def grid(pictures: torch.Tensor, columns: int = 8) -> Image.Image:
    """IMAGE (B, H, W, 3) in 0..1 as one picture, row by row."""
    count, height, width, _ = pictures.shape
    lines, gap = -(-count // columns), 2
    sheet = np.full((lines * (height + gap) - gap, min(columns, count) * (width + gap) - gap, 3), 255, np.uint8)
    pixels = (pictures.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    for index, picture in enumerate(pixels):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return Image.fromarray(sheet)


def save_png(image: Image.Image, path: Path) -> None:
    """Write beside and rename, so that no half-written picture is ever seen."""
    with whole_file(path) as temporary:
        image.save(temporary, format="PNG")
