"""The training loop that every stage shares.

    unclip train decoder --preset storybook --run runs/decoder
    unclip train decoder --preset storybook --run runs/decoder --device cuda
    torchrun --nproc-per-node 8 -m comfyui_unclip.workflows.cli train decoder --preset storybook --run runs/decoder

A run folder holds two checkpoints (weights, EMA, optimiser, step), `metrics.jsonl`, sample sheets, and at the end the
stage's safetensors. Killing the process loses at most the steps since the last checkpoint; starting it again with the
same arguments goes on from there with exactly the batches, noise and dropout it would have had.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..checkpoints.native import load_strict
from .batches import MicroBatches, held_out, prepared, step_seed
from .data import move
from .ema import Ema
from .learned import learned_state, load_learned
from .memory import checkpoint_blocks
from .precision import checked, computing, fastest, measure
from .recipes import FREE_TO_CHANGE, Recipe
from .run_folder import RunFolder
from .tensorboard import Board
from .world import World, this_world

MAX_SKIPPED = 50  # fp16 steps in a row whose gradients overflow while the loss scale is searched for

log = logging.getLogger(__name__)


class Task(Protocol):
    """What a stage brings to the loop.

    Optional: `prepare(batch)`, what is computed on the device and learns nothing; `after_step(network)`;
    `validate(network, rows, path)` instead of `sheet`, which also gives numbers of rows that are not trained on; and,
    for a loss over all rows of a step at once, `gathers = True` with `part`, `features` and `loss_of`: see
    `task_clip.ClipTask`.
    """

    stage: str

    def build(self) -> nn.Module:
        """The network to train, with fresh weights."""

    def batch(self, rows: list[int], rng: Any, generator: torch.Generator) -> Any:
        """The training batch for these data rows; all randomness from `rng` and `generator` (CPU)."""

    def loss(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Any]]:
        """Scalar loss, and numbers (or tensors of one) to log."""

    def sheet(self, network: nn.Module, path: Path) -> None:
        """Write a sample sheet made with the EMA weights."""

    def export(self, network: nn.Module, path: Path, made_of: dict[str, Any]) -> None:
        """Write the stage's native checkpoint. made_of: what it was made of, as the file is to say."""


@dataclass(frozen=True)
class LoopOptions:
    """How a run is carried out. What it learns is the recipe's; these may differ when it is taken up again."""

    device: torch.device | str = "cpu"
    dtype: str = "auto"  # "fp32", "bf16", "fp16"; "auto" times the network and keeps to it in this run
    compile: bool = False
    save_memory: bool = False  # blocks are computed again in the backward pass instead of kept
    workers: int = 0  # processes that prepare batches
    tensorboard: bool = False
    log_every: int = 20  # steps
    tell_seconds: float = 5.0  # progress is yielded at least so often, if steps are slow; it is not logged
    sheet_every: int = 500
    save_every: int = 250
    save_minutes: float = 10.0  # a checkpoint at least so often


@dataclass(frozen=True)
class Progress:
    """How far a run is: at every logged step, and at others where steps are slow."""

    step: int
    steps: int
    loss: float
    pictures_per_second: float
    numbers: dict[str, float]


class Stopped(Exception):
    """The run was asked to stop, and has saved what it had."""


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then cosine decay to a tenth (or constant)."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    if not recipe.decay:
        return recipe.lr
    steps = recipe.decay_steps or recipe.steps
    share = min(1.0, (step - recipe.warmup) / max(1, steps - recipe.warmup))
    return recipe.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))


def train(
    task: Task,
    recipe: Recipe,
    run: Path,
    rows: int | Sequence[int],
    *,
    init: dict[str, Tensor] | None = None,
    identity: Mapping[str, Any] | None = None,
    options: LoopOptions | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Train `task` by `recipe` in the folder `run`, yielding progress.

    rows: the data rows that it may learn from, or their number; a share of them is held out where the task validates.
    init: weights to start a new run from. identity: what else the run is of (data, CLIP, config), as JSON; a run goes
    on with the same only. stop: asked after every step.

    Raises ValueError for weights that do not fit or a run folder made of something else, FloatingPointError when loss
    or gradients are not finite any more (the checkpoints are from before), OSError when a checkpoint cannot be
    written, Stopped once `stop` says so and the state is saved.
    """
    options, world, folder = options or LoopOptions(), this_world(), RunFolder(run)
    with _locked(folder, world):
        yield from _train(_Run(task, recipe, folder, rows, init, dict(identity or {}), options, world), stop)


@contextlib.contextmanager
def _locked(folder: RunFolder, world: World) -> Iterator[None]:
    """The first process has the folder's lock; where it does not get it, all raise its ValueError."""
    with contextlib.ExitStack() as stack:
        said = None
        if world.first:
            try:
                stack.enter_context(folder.locked())
            except ValueError as error:
                said = str(error)
        if (said := world.share(said)) is not None:
            raise ValueError(said)
        yield


def _resumed(state: _Run) -> int:
    """Take up the folder's last checkpoint, if any. Returns how many steps are done."""
    start, last, folder, world = state.resume(), state.recipe.steps, state.folder, state.world
    if start > last:
        raise ValueError(
            f"--run {folder.path}: step {start} is done already, which is more than --steps {last}; leave --steps out, "
            "give more, or use another --run"
        )
    if world.any(start != world.share(start)):
        raise ValueError(
            f"--run {folder.path}: not every process sees the same checkpoint there; give a folder that all machines "
            "share"
        )
    if world.first:
        folder.forget_after(start)
    return start


def _train(state: _Run, stop: Callable[[], bool]) -> Iterator[Progress]:
    recipe, folder, options, world = state.recipe, state.folder, state.options, state.world
    start, last = _resumed(state), recipe.steps
    saved = clock = told = time.perf_counter()
    since, waited = start, 0.0
    with contextlib.ExitStack() as stack:
        metrics = stack.enter_context(folder.metrics.open("a", encoding="utf-8")) if world.first else None
        board = stack.enter_context(Board(folder.path)) if options.tensorboard and world.first else None

        def write(line: dict[str, Any]) -> None:
            if metrics:
                metrics.write(json.dumps(line) + "\n")
                metrics.flush()
            if board:
                board.write(line)

        steps = state.steps(start)
        for done in range(start + 1, last + 1):
            try:
                result = next(steps)
            except (RuntimeError, ConnectionError, EOFError):
                if not stop():
                    raise
                # What asked to stop has ended other processes too; the weights are the last step's.
                state.save(done - 1)
                raise Stopped(_said(state.task, done - 1)) from None
            waited += result.waited
            now = time.perf_counter()
            logged = done % options.log_every == 0 or done == last
            if logged or now - told > options.tell_seconds:
                told, loss = now, result.loss  # where steps are slow, this process's own
                speed = (done - since) * recipe.batch / (now - clock)
                numbers = {name: _number(value) for name, value in result.numbers.items()}
                if logged:
                    loss = world.mean(loss)
                    line = {
                        "step": done,
                        "loss": float(loss),
                        "lr": learning_rate(recipe, done - 1),
                        "grad_norm": _number(result.norm),
                        "pictures_per_second": round(speed, 1),
                        "data_share": round(waited / (now - clock), 3),
                        **numbers,
                    }
                    clock, since, waited = now, done, 0.0
                    write(line)
                yield Progress(done, last, float(loss), speed, numbers)
            stops = _asked(world, stop)
            due = time.perf_counter() - saved > 60 * options.save_minutes
            if done % options.save_every == 0 or done == last or stops or world.any(due):
                state.save(done)
                saved = time.perf_counter()
            if stops and done < last:
                raise Stopped(_said(state.task, done))
            if world.first and (done % options.sheet_every == 0 or done == last):
                pause = time.perf_counter()
                if found := state.review(folder.path / f"sheet-{done:07d}.png"):
                    write({"step": done, **found})
                clock += time.perf_counter() - pause  # no part of the training's speed
    if world.first:
        _export(state)


def _export(state: _Run) -> None:
    """The average of the weights as the stage's file; the folder is then a finished run."""
    task, folder, made_of = state.task, state.folder, state.made_of()
    # The file has its config already, with a vocabulary that may be long.
    said = {name: value for name, value in made_of.items() if name not in ("config", "stage")}
    with state.averaged() as network:
        task.export(network, folder.path / f"{task.stage}.safetensors", said)
    folder.finish(made_of)


def _asked(world: World, stop: Callable[[], bool]) -> bool:
    """Whether one of the processes is to stop, which may have ended already."""
    try:
        return world.any(bool(stop()))
    except RuntimeError:
        if not stop():
            raise
        return True


def _said(task: Task, done: int) -> str:
    return f"train {task.stage}: stopped at step {done}, which is saved; the same command goes on"


@dataclass(frozen=True)
class _Result:
    """What a step gave: its loss, numbers and norm of the gradient, and the seconds it waited for data."""

    loss: Tensor
    numbers: dict[str, Any]
    norm: Tensor
    waited: float


class _Loss(nn.Module):
    """The network and its loss as one module: what is compiled, and what processes share the gradients of."""

    def __init__(self, task: Task, network: nn.Module) -> None:
        super().__init__()
        self.task, self.network = task, network

    def forward(self, batch: Any) -> Any:
        """The task's (loss, numbers); its features, if its loss needs all rows of a step."""
        if getattr(self.task, "gathers", False):
            return self.task.features(self.network, batch)
        return self.task.loss(self.network, batch)


class _Run:
    """What a run changes: network, average and optimiser."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        folder: RunFolder,
        rows: int | Sequence[int],
        init: dict[str, Tensor] | None,
        identity: dict[str, Any],
        options: LoopOptions,
        world: World,
    ) -> None:
        """See `train`."""
        self.task, self.recipe, self.folder, self.options, self.world = task, recipe, folder, options, world
        self.device = torch.device(options.device)
        rows = list(range(rows)) if isinstance(rows, int) else list(rows)
        share = recipe.validation if hasattr(task, "validate") else 0.0
        self.rows, self.held_out = held_out(rows, share, recipe.seed)
        self.identity = {**identity, "rows": len(rows)}
        network = task.build().to(self.device)
        if self.device.type in ("cpu", "cuda"):
            network = network.to(memory_format=torch.channels_last)
        if init is not None:
            load_strict(network, {name: value.float() for name, value in init.items()}, "initial weights")
        if options.save_memory:
            checkpoint_blocks(network)
        if hasattr(task, "schedule"):
            task.schedule = task.schedule.to(self.device)  # its tables are read in every step
        self.network = network
        self.ema = Ema(network, recipe.ema)
        self.optimiser = torch.optim.AdamW(
            _parameter_groups(network, recipe.weight_decay),
            lr=recipe.lr,
            betas=recipe.betas,
            eps=recipe.adam_eps,
            fused=self.device.type in ("cpu", "cuda"),  # one pass over each weight, four times as fast on processors
        )
        self.batches = MicroBatches(task, recipe, self.rows)
        if self.batches.count % world.size:
            raise ValueError(
                f"a step has {self.batches.count} micro-batches, which {world.size} processes cannot share evenly; "
                f"set --micro-batch to {recipe.batch // world.size} or a divisor of it"
            )
        self.dtype = None if options.dtype == "auto" else checked(options.dtype, self.device)
        self.module: nn.Module = _Loss(task, network)
        self.scaler = torch.amp.GradScaler("cuda", enabled=False)
        self.skipped = 0

    def resume(self) -> int:
        """Take up the checkpoint, if there is one, and settle on a dtype; returns the number of steps done."""
        state = self.folder.load()
        done = 0
        if state is not None:
            self._check_same(state)
            load_learned(self.network, state["network"], str(self.folder.checkpoint))
            self.ema.load(state["ema"])
            self.optimiser.load_state_dict(state["optimiser"])
            done = state["step"]
            self.dtype = self.dtype or state["dtype"]
        if done < self.recipe.steps:
            if self.dtype is None:
                self.dtype = self.world.share(self._fastest() if self.world.first else None)
            self.scaler = torch.amp.GradScaler("cuda", enabled=self.dtype == "fp16")
            if state is not None and self.dtype == state["dtype"]:
                self.scaler.load_state_dict(state["scaler"])
            if self.world.first:
                self.folder.write(self.folder.config, self.made_of())
            if self.options.compile:
                self.module = torch.compile(self.module)
            if self.world.size > 1:
                devices = [self.device] if self.device.type == "cuda" else None
                self.module = DistributedDataParallel(self.module, device_ids=devices)
        return done

    def _fastest(self) -> str:
        """The dtype in which this network learns fastest here."""
        batch = self._on_device(self.batches[0])
        parts = self._parts(batch)
        self.network.eval()  # no statistics of norms are gathered by the way

        def work() -> Tensor:
            torch.manual_seed(0)
            found = self.module(parts[0])
            return sum(value.float().sum() for value in found) if self._gathers else found[0]

        seconds = measure(self.device, work)
        self.optimiser.zero_grad(set_to_none=True)
        chosen = fastest(seconds)
        shown = ", ".join(f"{name} {value:.3f} s" for name, value in seconds.items())
        log.info("train %s: a micro-batch takes %s; training in %s", self.task.stage, shown, chosen)
        return chosen

    @property
    def _gathers(self) -> bool:
        return getattr(self.task, "gathers", False)

    def _own(self) -> list[int]:
        """The numbers of this process's micro-batches of a step."""
        share = self.batches.count // self.world.size
        return list(range(self.world.rank * share, (self.world.rank + 1) * share))

    def steps(self, start: int) -> Iterator[_Result]:
        """One optimiser step after another; every random number comes from (seed, step, micro-batch)."""
        own = self._own()
        # What gathers makes all rows of a step at once, and the same ones in every process.
        made = [0] if self._gathers else own
        numbers = (step * self.batches.count + micro for step in range(start, self.recipe.steps) for micro in made)
        batches = prepared(self.batches, numbers, self.options.workers, self.device.type == "cuda")
        for step in range(start, self.recipe.steps):
            self.network.train()
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate(self.recipe, step)
            self.optimiser.zero_grad(set_to_none=True)
            loss, logged, waited = (self._gathered if self._gathers else self._accumulated)(step, own, batches)
            self.scaler.unscale_(self.optimiser)
            norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.grad_clip)
            self._check_finite(step, loss, norm)
            self.scaler.step(self.optimiser)
            self.scaler.update()
            if hasattr(self.task, "after_step"):
                self.task.after_step(self.network)
            self.ema.update(self.network, step)
            yield _Result(loss, logged, norm, waited)

    def _accumulated(self, step: int, own: list[int], batches: Iterator[Any]) -> tuple[Tensor, dict, float]:
        """The mean of the micro-batches' gradients; loss and numbers of this process's."""
        losses, logged, waited = [], [], 0.0
        for micro in own:
            clock = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - clock
            torch.manual_seed(step_seed(self.recipe.seed, step, "dropout", micro))
            with self._alone(micro != own[-1]), computing(self.device, self.dtype):
                loss, numbers = self.module(self._on_device(batch))
                self.scaler.scale(loss / len(own)).backward()
            losses.append(loss.detach())
            logged.append(numbers)
        return torch.stack(losses).mean(), _mean(logged), waited

    def _gathered(self, step: int, own: list[int], batches: Iterator[Any]) -> tuple[Tensor, dict, float]:
        """The gradient of a loss over all rows of a step, at the memory of one micro-batch.

        Features of all micro-batches come first, without gradient; the loss gives the gradient of each; then every
        micro-batch is computed again and passes its own on (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch
        Size under Memory Limited Setup"). A lone micro-batch is computed once.
        """
        clock = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - clock
        batch = self._on_device(batch)
        parts = self._parts(batch)

        def features(micro: int) -> tuple[Tensor, ...]:
            torch.manual_seed(step_seed(self.recipe.seed, step, "dropout", micro))
            with computing(self.device, self.dtype):
                return self.module(parts[micro])

        once = len(own) == 1
        if once:
            kept = [features(own[0])]
        else:
            with torch.no_grad():
                kept = [features(micro) for micro in own]
        mine = [torch.cat([each.detach() for each in column]) for column in zip(*kept, strict=True)]
        leaves = [self.world.gather_rows(column).requires_grad_() for column in mine]
        loss, numbers = self.task.loss_of(leaves, batch)
        self.scaler.scale(loss).backward()
        first = own[0] * (self.recipe.batch // self.batches.count)
        for place, micro in enumerate(own):
            with self._alone(micro != own[-1]):
                found = kept[0] if once else features(micro)
                begin = first + place * len(found[0])
                # Processes average what is a sum over all rows.
                grads = [leaf.grad[begin : begin + len(found[0])] * self.world.size for leaf in leaves]
                learned = [pair for pair in zip(found, grads, strict=True) if pair[0].requires_grad]
                torch.autograd.backward(*zip(*learned, strict=True))
        return loss.detach(), numbers, waited

    def _parts(self, batch: Any) -> list[Any]:
        """What each micro-batch's forward pass reads of a batch: all of it, where the loss needs no other rows."""
        if not self._gathers:
            return [batch]
        size = self.recipe.batch // self.batches.count
        return [self.task.part(batch, slice(start, start + size)) for start in range(0, self.recipe.batch, size)]

    def _on_device(self, batch: Any) -> Any:
        batch = move(batch, self.device)
        if not hasattr(self.task, "prepare"):
            return batch
        with torch.no_grad():
            return self.task.prepare(batch)

    def _alone(self, alone: bool):
        """Where gradients are summed up here before the processes share them."""
        shared = isinstance(self.module, DistributedDataParallel)
        return self.module.no_sync() if shared and alone else contextlib.nullcontext()

    def _check_finite(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Raises FloatingPointError before a step that would spoil the weights."""
        if norm.isfinite() and loss.isfinite():
            self.skipped = 0
            return
        if not norm.isfinite():  # the same norm in all processes, which share their gradients
            loss = self.world.mean(loss)
        if self.scaler.is_enabled() and loss.isfinite() and self.skipped < MAX_SKIPPED:
            self.skipped += 1  # the scaler leaves this step out and halves its scale
            return
        bad = [name for name, value in self.network.named_parameters() if _not_finite(value.grad)]
        where = f", first in {bad[0]}" if bad else ""
        raise FloatingPointError(
            f"train {self.task.stage}: at step {step + 1} ({self.dtype}) the loss is {float(loss)} and the gradient's "
            f"norm {float(norm)}{where}; the checkpoints are from before: lower lr {self.recipe.lr:g}, or --dtype fp32"
        )

    def save(self, done: int) -> None:
        """Write everything that the next step needs."""
        if self.world.first:
            state = {
                "step": done,
                "network": learned_state(self.network),
                "ema": self.ema.state,
                "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(),
                "dtype": self.dtype,
                "made_of": json.dumps(self.made_of()),
            }
            self.folder.save(state)

    def made_of(self) -> dict[str, Any]:
        """Recipe, and what else the run is of."""
        return {"recipe": asdict(self.recipe), **self.identity, "dtype": self.dtype}

    def _check_same(self, state: dict[str, Any]) -> None:
        """Raises ValueError naming what is another than it was."""
        if "made_of" not in state:
            raise ValueError(
                f"--run {self.folder.path}: its checkpoint is of an older comfyui-unclip; use a new --run, which "
                f"--init {self.folder.path} begins with these weights"
            )
        before, now = json.loads(state["made_of"]), json.loads(json.dumps(self.made_of()))
        # A checkpoint older than a field was made with that field's default.
        known = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}
        recipe = {**json.loads(json.dumps(known)), **before["recipe"]}
        changed = [
            f"{name} {recipe.get(name)} -> {value}"
            for name, value in sorted(now["recipe"].items())
            if name not in FREE_TO_CHANGE and recipe.get(name) != value
        ]
        changed += [
            _difference(name, before.get(name), now.get(name))
            for name in now
            if name not in ("recipe", "dtype") and before.get(name) != now[name]
        ]
        if changed:
            raise ValueError(
                f"--run {self.folder.path}: this run was started otherwise ({', '.join(changed)}); resume it "
                "unchanged, or use a new --run or --name (--init begins with these weights)"
            )

    @torch.no_grad()
    def review(self, path: Path) -> dict[str, float]:
        """Write the sheet of the averaged weights; their numbers on the rows held out, or, where there are too few to
        hold any out, on those trained on."""
        with self.averaged() as network, computing(self.device, self.dtype):
            if not hasattr(self.task, "validate"):
                self.task.sheet(network, path)
                return {}
            found = self.task.validate(network, self.held_out or self.rows, path)
        kind = "validation" if self.held_out else "training"
        return {f"{kind}_{name}": _number(value) for name, value in found.items()}

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The network with its averaged weights, in evaluation mode."""
        with self.ema.applied(self.network):
            yield self.network.eval()


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and filters only; biases, norms and single vectors keep their size."""
    trained = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def _number(value: Any) -> float:
    return float(f"{float(value):.5g}")


def _mean(logged: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of the micro-batches' numbers, on the device until they are logged."""
    return {name: sum(each[name] for each in logged) / len(logged) for name in logged[0]}


def _not_finite(grad: Tensor | None) -> bool:
    return grad is not None and not bool(grad.isfinite().all())


def _difference(name: str, before: Any, now: Any) -> str:
    """What changed, by field where it is a table of many."""
    if isinstance(before, dict) and isinstance(now, dict):
        inner = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return ", ".join(_difference(f"{name}.{key}", before.get(key), now.get(key)) for key in inner)
    shown = [text if len(text := str(value)) < 60 else f"{text[:57]}..." for value in (before, now)]
    return f"{name} {shown[0]} -> {shown[1]}"
