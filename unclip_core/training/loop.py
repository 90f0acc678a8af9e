"""The training loop that every stage shares.

    unclip train decoder --preset storybook --run runs/decoder
    unclip train decoder --preset storybook --run runs/decoder --device cuda

A run folder holds `checkpoint.pt` (weights, EMA, optimiser, step), `log.jsonl`, sample sheets, and at the end the
stage's safetensors. Killing the process loses at most the steps since the last checkpoint; starting it again with the
same arguments goes on from there with exactly the batches, noise and dropout it would have had.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..checkpoints.native import load_strict
from .data import move
from .ema import Ema
from .recipes import Recipe


class Task(Protocol):
    """What a stage brings to the loop."""

    stage: str

    def build(self) -> nn.Module:
        """The network to train, with fresh weights."""

    def batch(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> Any:
        """The training batch for these data rows; all randomness from `rng` and `generator` (CPU)."""

    def loss(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Scalar loss and numbers to log."""

    def sheet(self, network: nn.Module, path: Path) -> None:
        """Write a sample sheet made with the EMA weights."""

    def export(self, network: nn.Module, path: Path, recipe: dict[str, Any]) -> None:
        """Write the stage's native checkpoint."""


@dataclass(frozen=True)
class Progress:
    """One logged moment of a run."""

    step: int
    steps: int
    loss: float
    pictures_per_second: float
    numbers: dict[str, float]


def step_seed(seed: int, step: int, what: str, rank: int = 0) -> int:
    """A 63-bit seed that depends on everything named: the reason why resuming is exact."""
    digest = hashlib.sha256(f"{seed}/{step}/{what}/{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def rows_of_step(step: int, batch: int, count: int, seed: int) -> list[int]:
    """The data rows of a step: every row once per epoch, in an order shuffled by (seed, epoch)."""
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


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then cosine decay to a tenth (or constant)."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    if not recipe.decay:
        return recipe.lr
    share = min(1.0, (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup))
    return recipe.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and filters only; biases, norms and single vectors keep their size."""
    trained = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


@contextlib.contextmanager
def _fast(device: torch.device, bf16: bool) -> Iterator[None]:
    """bf16 autocast; on the CPU attention as plain matmuls, whose backward is twice as fast there as the fused one."""
    with contextlib.ExitStack() as stack:
        if bf16:
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        if device.type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside and rename, so that a kill leaves the last whole checkpoint."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    torch.save(state, partial)
    os.replace(partial, path)


def train(
    task: Task,
    recipe: Recipe,
    run: Path,
    rows: int,
    *,
    init: dict[str, Tensor] | None = None,
    device: torch.device | str = "cpu",
    bf16: bool = True,
    log_every: int = 20,
    sheet_every: int = 500,
    save_every: int = 250,
) -> Iterator[Progress]:
    """Train `task` by `recipe` in the folder `run`, yielding progress; `rows` is the number of training rows.

    init: weights to start a new run from. Raises ValueError for weights that do not fit or a run folder made with
    another recipe, FloatingPointError when the loss is not finite any more.
    """
    run.mkdir(parents=True, exist_ok=True)
    state = _Run(task, recipe, rows, torch.device(device), bf16, init)
    start = state.resume(run / "checkpoint.pt")
    clock, since = time.perf_counter(), start
    with (run / "log.jsonl").open("a") as log:
        for step in range(start, recipe.steps):
            loss, numbers = state.step(step)
            done, last = step + 1, step + 1 == recipe.steps
            logs, saves = done % log_every == 0 or last, done % save_every == 0 or last
            if (logs or saves) and not math.isfinite(value := float(loss)):
                raise FloatingPointError(f"train {task.stage}: loss is {value} at step {done}; lower lr {recipe.lr}")
            if logs:
                speed = (done - since) * recipe.batch / (time.perf_counter() - clock)
                clock, since = time.perf_counter(), done
                line = {"step": done, "loss": value, "pictures_per_second": round(speed, 1), **numbers}
                log.write(json.dumps(line) + "\n")
                log.flush()
                yield Progress(done, recipe.steps, value, speed, numbers)
            if saves:
                state.save(run / "checkpoint.pt", done)
            if done % sheet_every == 0 or last:
                with state.averaged() as network, torch.no_grad():
                    task.sheet(network, run / f"sheet-{done:07d}.png")
    with state.averaged() as network:
        task.export(network, run / f"{task.stage}.safetensors", asdict(recipe))


class _Run:
    """What a run changes: network, average and optimiser."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        rows: int,
        device: torch.device,
        bf16: bool,
        init: dict[str, Tensor] | None,
    ) -> None:
        self.task, self.recipe, self.rows, self.device, self.bf16 = task, recipe, rows, device, bf16
        network = task.build().to(device)
        if device.type in ("cpu", "cuda"):
            network = network.to(memory_format=torch.channels_last)
        if init is not None:
            load_strict(network, {name: value.float() for name, value in init.items()}, "initial weights")
        self.network = network
        self.ema = Ema(network, recipe.ema)
        self.optimiser = torch.optim.AdamW(
            _parameter_groups(network, recipe.weight_decay), lr=recipe.lr, betas=recipe.betas, eps=recipe.adam_eps
        )

    def step(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """One optimiser step; every random number comes from (seed, step)."""
        recipe, network = self.recipe, self.network
        network.train()
        rng = random.Random(step_seed(recipe.seed, step, "python"))
        generator = torch.Generator().manual_seed(step_seed(recipe.seed, step, "torch"))
        torch.manual_seed(step_seed(recipe.seed, step, "dropout"))
        batch = self.task.batch(rows_of_step(step, recipe.batch, self.rows, recipe.seed), rng, generator)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step)
        with _fast(self.device, self.bf16):
            loss, numbers = self.task.loss(network, move(batch, self.device))
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), recipe.grad_clip)
        self.optimiser.step()
        self.ema.update(network, step)
        return loss.detach(), numbers

    def save(self, path: Path, done: int) -> None:
        """Write everything that the next step needs."""
        state = {
            "step": done,
            "rows": self.rows,
            "network": self.network.state_dict(),
            "ema": self.ema.state,
            "optimiser": self.optimiser.state_dict(),
            "recipe": json.dumps(asdict(self.recipe)),
        }
        save_checkpoint(path, state)

    def resume(self, path: Path) -> int:
        """Take up the checkpoint, if there is one; returns the number of steps done."""
        if not path.exists():
            return 0
        state = torch.load(path, map_location="cpu", weights_only=True)
        # A checkpoint older than a field was made with that field's default.
        known = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}
        known, now = json.loads(json.dumps([{**known, "rows": self.rows}, {**asdict(self.recipe), "rows": self.rows}]))
        before = {**known, **json.loads(state["recipe"]), "rows": state.get("rows", self.rows)}
        if changed := sorted(name for name in now if before.get(name) != now[name]):
            listed = ", ".join(f"{name} {before.get(name)} -> {now[name]}" for name in changed)
            raise ValueError(
                f"{path}: this run was started with another recipe ({listed}); resume it unchanged or use a new --run"
            )
        load_strict(self.network, state["network"], str(path))
        self.ema.load(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        return state["step"]

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The network with its averaged weights, in evaluation mode."""
        with self.ema.applied(self.network):
            yield self.network.eval()
