"""Pictures about pictures: grids with labelled edges and bar charts, as IMAGE tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ..types import image_to_model, model_to_image
from .fonts import font_for, width_of, wrapped

INK, PAPER, TRACK, BAR = (32, 32, 32), (255, 255, 255), (228, 228, 228), (70, 120, 200)
MAX_SIDE = 16_384  # pixels of a grid
_LINES = 3  # of a label at most


def same_size(pictures: Sequence[Tensor], side: int = 0) -> list[Tensor]:
    """IMAGE batches brought to one height and width: `side` pixels high, or the largest there is; alpha on white."""
    height = side or max(batch.shape[1] for batch in pictures)
    shapes = [(height, max(1, round(batch.shape[2] * height / batch.shape[1]))) for batch in pictures]
    size = (height, max(width for _, width in shapes))
    fitted = []
    for batch in pictures:
        x = image_to_model(batch)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True).clamp(-1.0, 1.0)
        fitted.append(model_to_image(x))
    return fitted


def labelled_grid(
    rows: Sequence[Tensor], row_labels: Sequence[str] = (), column_labels: Sequence[str] = (), gap: int = 4
) -> Tensor:
    """IMAGE (1, H, W, 3): each item of `rows` an IMAGE batch of one size, drawn as a line of cells.

    Labels stand left of their row and above their column; a missing one leaves its place empty. gap: pixels, 0 up.
    Raises ValueError for no picture, more labels than rows or columns, or a grid of more than 16384 px a side.
    """
    rows = [row for row in rows if len(row)]
    if not rows:
        raise ValueError("Image Grid: there is no picture; link a batch of at least one")
    columns = max(len(row) for row in rows)
    for name, labels, count in (("row", row_labels, len(rows)), ("column", column_labels, columns)):
        if len(labels) > count:
            raise ValueError(
                f"Image Grid: {len(labels)} {name} labels for {count} {name}s; remove {len(labels) - count}"
            )
    height, width = rows[0].shape[1:3]
    size = max(12, min(height, width) // 12)
    font = font_for("".join([*row_labels, *column_labels]), size)
    line, edge = size + size // 4, size // 2
    heads = [wrapped(font, label, width, _LINES) for label in column_labels]
    top = edge + line * max(len(head) for head in heads) + edge if heads else 0
    left = min(max(width_of(font, label) for label in row_labels), 2 * width) + 2 * edge if row_labels else 0
    shape = (left + columns * (width + gap) - gap, top + len(rows) * (height + gap) - gap)
    if max(shape) > MAX_SIDE:
        raise ValueError(f"Image Grid: {shape[0]} x {shape[1]} px is too large; keep below {MAX_SIDE} px a side")
    sheet = np.full((shape[1], shape[0], 3), PAPER, np.uint8)
    for y in range(len(rows)):
        pixels = (rows[y].clamp(0, 1) * 255).round().byte().cpu().numpy()
        for x in range(len(rows[y])):
            sheet[top + y * (height + gap) :, left + x * (width + gap) :][:height, :width] = pixels[x]
    picture = Image.fromarray(sheet)
    pen = ImageDraw.Draw(picture)
    for x, head in enumerate(heads):
        for number, text in enumerate(head):
            pen.text((left + x * (width + gap), edge + number * line), text, INK, font)
    for y, label in enumerate(row_labels):
        lines = wrapped(font, label, left - 2 * edge, _LINES)
        start = top + y * (height + gap) + max(0, (height - line * len(lines)) // 2)
        for number, text in enumerate(lines):
            pen.text((edge, start + number * line), text, INK, font)
    return torch.from_numpy(np.asarray(picture).copy())[None].float() / 255.0


def near_square(count: int) -> int:
    """Columns that make `count` cells about as wide as high."""
    return math.ceil(math.sqrt(count))


def bar_chart(names: Sequence[str], values: Sequence[float], size: int = 512) -> Tensor:
    """IMAGE (1, H, size, 3): a horizontal bar in 0..1 for each name, in the order given, with its value in percent.

    A long name takes several lines, so that none is cut short before `size / 2` pixels by four lines. H follows
    the names alone: charts of the same names, in any order, make one batch.
    """
    text_size = size // 28
    font = font_for("".join(names), text_size)
    leading, edge = text_size * 5 // 4, text_size
    number_width = width_of(font, "100.0 %")
    name_width = min(max(width_of(font, name) for name in names), size // 2)
    room = size - name_width - number_width - 4 * edge
    blocks = [wrapped(font, name, name_width) for name in names]
    height = edge + sum(leading * len(block) + edge for block in blocks)
    picture = Image.new("RGB", (size, height), PAPER)
    pen = ImageDraw.Draw(picture)
    top, start = edge, name_width + 2 * edge
    for block, value in zip(blocks, values, strict=True):
        for number, text in enumerate(block):
            pen.text((edge, top + number * leading), text, INK, font)
        y = top + leading * (len(block) - 1) // 2
        pen.rectangle((start, y, start + room, y + text_size), fill=TRACK)
        pen.rectangle((start, y, start + round(room * value), y + text_size), fill=BAR)
        pen.text((start + room + edge, y), f"{100 * value:.1f} %", INK, font)
        top += leading * len(block) + edge
    return torch.from_numpy(np.asarray(picture).copy())[None].float() / 255.0
