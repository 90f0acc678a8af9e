"""The processes of a run: one, or those that `torchrun` started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PREPARING = timedelta(hours=12)  # for the first process to draw, resize and encode while the others wait
A_STEP = timedelta(minutes=30)  # for a step with its validation: later a process that is silent counts as dead

_waiting: dist.ProcessGroup | None = None  # whose barriers are as patient as PREPARING


@dataclass(frozen=True)
class World:
    """rank: this process's number. size: how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """What the first process has, in all of them."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def any(self, flag: bool) -> bool:
        """Whether it is true in one of them, the same answer in all."""
        if self.size == 1:
            return flag
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        total = torch.tensor(int(flag), device=device)
        dist.all_reduce(total)
        return bool(total.item())

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a number over all processes."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def gather_rows(self, rows: Tensor) -> Tensor:
        """The rows (B, ...) of all processes, in their order, without gradient."""
        if self.size == 1:
            return rows
        found = [torch.empty_like(rows) for _ in range(self.size)]
        dist.all_gather(found, rows.contiguous())
        return torch.cat(found)

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process runs the inside, then the others: what it writes they find."""
        if self.size == 1:
            yield
            return
        if not self.first:
            dist.barrier(_waiting)
        try:
            yield
        finally:
            if self.first:
                dist.barrier(_waiting)


def this_world() -> World:
    """The world that `joined` has entered, else this process alone."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World()


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Inside, the processes that `torchrun` started know each other; without it this process is alone."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield World()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    global _waiting
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=A_STEP)
    _waiting = dist.new_group(backend="gloo", timeout=PREPARING)
    try:
        yield this_world()
    finally:
        _waiting = None
        dist.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """The device of this process among those that share a machine."""
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device
