"""Per-item noise: item i of a run with seed s equals a batch of one with seed s + i, on any device, in any chunking."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ..checks import is_whole

SEED_RANGE = 2**64


class ItemNoise:
    """Standard normal draws, one CPU generator per item, in the order a sampler asks for them.

    seed: the run's seed, any integer (taken mod 2^64); item i uses seed + first + i.
    count: items; stage: "prior", "decoder", ...; candidate: 0, 1, ... of one item; first: index of the first item.
    shared: every item uses item 0's draws.
    """

    def __init__(
        self, seed: int, count: int, stage: str, candidate: int = 0, shared: bool = False, *, first: int = 0
    ) -> None:
        if not is_whole(seed):
            raise ValueError(f"seed must be a whole number, got {seed!r}")
        if count < 1:
            raise ValueError(f"noise needs at least one item, got {count}")
        self.seed, self.count, self.stage = seed, count, stage
        self.candidate, self.shared, self.first = candidate, shared, first
        seeds = [seed] if shared else [seed + first + i for i in range(count)]
        self._generators = [_generator(item_seed % SEED_RANGE, stage, candidate) for item_seed in seeds]

    def draw(self, shape: tuple[int, ...] | torch.Size) -> Tensor:
        """The next draw: (count, *shape) float32 on the CPU."""
        rows = [torch.randn(tuple(shape), generator=generator, dtype=torch.float32) for generator in self._generators]
        return rows[0].expand(self.count, *shape) if self.shared else torch.stack(rows)

    def rows(self, rows: slice) -> ItemNoise:
        """The items in `rows` (a slice of step 1) as a noise of their own, from their first draw on."""
        start, stop, step = rows.indices(self.count)
        if step != 1:
            raise ValueError(f"noise rows must be contiguous, got {rows}")
        return ItemNoise(self.seed, stop - start, self.stage, self.candidate, self.shared, first=self.first + start)


def upload(values: Tensor, like: Tensor) -> Tensor:
    """`values`, from the CPU, on the device and in the dtype of `like`.

    A GPU copies them from pinned memory while the host goes on: a sampler draws a step's noise while the step's network
    runs, and neither waits for the other. Elsewhere the host waits for the copy.
    """
    if like.device.type != "cuda":
        return values.to(like.device, like.dtype)
    # Contiguous, because expanded rows cannot be pinned; cast on the device, because a cast here would make a copy that
    # is not pinned. PyTorch does not reuse the pinned memory before it has been read.
    return values.contiguous().pin_memory().to(like.device, non_blocking=True).to(like.dtype)


def _generator(seed: int, stage: str, candidate: int) -> torch.Generator:
    # Hashed, so that neighbouring seeds, stages and candidates are unrelated streams.
    digest = hashlib.blake2b(f"{seed}/{stage}/{candidate}".encode(), digest_size=8).digest()
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(digest, "little"))
