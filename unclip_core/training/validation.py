"""Numbers on rows that are not trained on: the loss by quarters of the noise, on fixed rows, noise and captions."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .data import move

QUARTERS = 4
ROWS = 64  # of each quarter
SHEET_SIDE = 384  # pixels of a sheet of cosines


def some_rows(rows: Sequence[int], count: int) -> list[int]:
    """`count` of the rows, spread over them; again and again where there are fewer."""
    if len(rows) >= count:
        return [rows[index * len(rows) // count] for index in range(count)]
    return [rows[index % len(rows)] for index in range(count)]


def undisturbed(task: Any) -> Any:
    """The task as it is validated: no condition is dropped or noised, and a row is drawn once."""
    whole = copy.copy(task)
    quiet = {"embed_drop": 0.0, "text_drop": 0.0, "prior_drop": 0.0, "draws": 1, "embed_levels": 0}
    whole.recipe = dataclasses.replace(task.recipe, **quiet)
    return whole


def fixed_batch(task: Any, rows: list[int], device: torch.device) -> Any:
    """The same batch whenever it is asked for, on `device`."""
    whole = undisturbed(task)
    batch = move(whole.batch(rows, random.Random(0), torch.Generator().manual_seed(0)), device)
    return whole.prepare(batch) if hasattr(whole, "prepare") else batch


def quarter_losses(task: Any, network: nn.Module, rows: Sequence[int], device: torch.device) -> dict[str, Tensor]:
    """The loss where there is little noise (quarter 1) to where there is nothing else (4): loss_quarter_1 ... 4."""
    chosen = some_rows(rows, min(len(rows), ROWS))
    whole, timesteps = undisturbed(task), task.schedule.timesteps
    at_once = task.recipe.micro_batch or task.recipe.batch  # what fits when it learns
    sums = torch.zeros(QUARTERS, device=device)
    for start in range(0, len(chosen), at_once):
        part = chosen[start : start + at_once]
        batch = fixed_batch(task, part, device)
        for quarter in range(QUARTERS):
            place = start + torch.arange(len(part), device=device) + 0.5
            t = ((quarter + place / len(chosen)) / QUARTERS * timesteps).long().clamp(max=timesteps - 1)
            sums[quarter] += whole.loss(network, {**batch, "t": t})[0] * len(part)
    return {f"loss_quarter_{quarter + 1}": value / len(chosen) for quarter, value in enumerate(sums)}


def cosine_sheet(guess: Tensor, true: Tensor) -> Tensor:
    """IMAGE of all cosines of guessed (N, D) and true (M, D) embeddings: a bright diagonal is a good prior."""
    cosines = torch.cosine_similarity(guess[:, None], true[None], dim=-1).clamp(0, 1)
    cell = max(1, SHEET_SIDE // max(cosines.shape))
    picture = cosines[None, :, :, None].expand(1, *cosines.shape, 3)
    return picture.repeat_interleave(cell, 1).repeat_interleave(cell, 2)
