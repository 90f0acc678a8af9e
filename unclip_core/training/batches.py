"""What every step learns from: a fixed list of micro-batches, each made from (seed, step, number) alone.

So accumulating gradients, spreading a step over processes, preparing batches ahead in workers and going on after a
kill, also with another number of processes, are one mechanism: who makes a micro-batch, and when, changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import get_all_start_methods
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from .recipes import Recipe

FEWEST, SMALL = 8, 100  # rows


def step_seed(seed: int, step: int, what: str, micro: int = 0) -> int:
    """A 63-bit seed that depends on everything named: the reason why resuming is exact."""
    digest = hashlib.sha256(f"{seed}/{step}/{what}/{micro}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def rows_of_step(step: int, batch: int, count: int, seed: int) -> list[int]:
    """The places of a step's rows among `count`: each once per epoch, in an order shuffled by (seed, epoch)."""
    rows: list[int] = []
    position = step * batch
    while len(rows) < batch:
        epoch, offset = divmod(position + len(rows), count)
        order = _epoch_order(count, seed, epoch)
        rows += order[offset : offset + batch - len(rows)]
    return rows


_ORDERS: dict[tuple[int, int, int], list[int]] = {}


def _epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    key = (count, seed, epoch)
    if key not in _ORDERS:
        for old in [k for k in _ORDERS if k[2] < epoch - 1]:
            del _ORDERS[old]
        order = list(range(count))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        _ORDERS[key] = order
    return _ORDERS[key]


def held_out(rows: Sequence[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """(training rows, validation rows): the same split for the same rows, share and seed; both in the order of `rows`.

    At least FEWEST are held out; of fewer than SMALL rows none, which are all needed.
    """
    count = max(FEWEST, round(len(rows) * share)) if share and len(rows) >= SMALL else 0
    chosen = set(random.Random(f"{seed}/validation").sample(range(len(rows)), count))
    return (
        [row for place, row in enumerate(rows) if place not in chosen],
        [row for place, row in enumerate(rows) if place in chosen],
    )


def micro_batches(recipe: Recipe) -> int:
    """How many micro-batches a step has. Raises ValueError where they would not be of equal size."""
    size = recipe.micro_batch or recipe.batch
    if size > recipe.batch or recipe.batch % size:
        raise ValueError(
            f"Recipe.micro_batch {size} must divide batch {recipe.batch}: a step is the mean of equal parts"
        )
    return recipe.batch // size


class MicroBatches(Dataset):
    """The micro-batches of a run by number: step * count + which. rows: the data rows that are trained on.

    A task that `gathers` gets all rows of a step at once, for each of its micro-batches: see `loop.Task`.
    """

    def __init__(self, task: Any, recipe: Recipe, rows: Sequence[int]) -> None:
        self.task, self.recipe, self.rows = task, recipe, rows
        self.count = micro_batches(recipe)

    def __getitem__(self, number: int) -> Any:
        step, micro = divmod(number, self.count)
        recipe = self.recipe
        rows = [self.rows[place] for place in rows_of_step(step, recipe.batch, len(self.rows), recipe.seed)]
        if not getattr(self.task, "gathers", False):
            size = recipe.batch // self.count
            rows = rows[micro * size : (micro + 1) * size]
        rng = random.Random(step_seed(recipe.seed, step, "python", micro))
        generator = torch.Generator().manual_seed(step_seed(recipe.seed, step, "torch", micro))
        return self.task.batch(rows, rng, generator)


def prepared(batches: MicroBatches, numbers: Iterable[int], workers: int, pin: bool) -> Iterator[Any]:
    """Those micro-batches, in order. workers: processes that make them ahead. pin: in memory that a GPU copies from."""
    options: dict[str, Any] = {"num_workers": workers, "pin_memory": pin}
    if workers:
        # Forked, they share what is read and cached already; where there is no fork, all of it is sent to them.
        kind = "fork" if "fork" in get_all_start_methods() else None
        options |= {"prefetch_factor": 2, "multiprocessing_context": kind}
    with _deaths_noticed_when_waiting():
        return iter(DataLoader(batches, batch_size=None, sampler=numbers, **options))


@contextlib.contextmanager
def _deaths_noticed_when_waiting() -> Iterator[None]:
    """A DataLoader made inside raises for a dead worker when its batch is waited for.

    PyTorch's handler of SIGCHLD would raise wherever the process is just then, half an optimiser's step or half a
    checkpoint done.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        ours = callable(before) and not before.__module__.startswith("torch.")
        signal.signal(signal.SIGCHLD, before if ours else signal.SIG_DFL)
