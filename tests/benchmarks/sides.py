"""The sides of a comparison: a process each, which take turns piece by piece, so that all see the same machine.

Those of a comparison with diffusers' pipelines:

- diffusers: its networks and schedulers, driven as its pipelines drive them, weights as `from_pretrained` gives them.
- tuned: the same with channels-last and with the allocator setting that `unclip run` uses.
- tuned-compiled: and `torch.compile` with CUDA graphs.
- ours: what `unclip run` computes.
- ours-compiled: with `compile` of Load unCLIP.
- int8: with `dtype` int8 of Load unCLIP, another picture.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

SIDES = ("diffusers", "tuned", "tuned-compiled", "ours", "ours-compiled", "int8")
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


class Worker(Protocol):
    """What runs in a side's process. Its other methods can be asked too, with arguments and answers that JSON holds."""

    def units(self, piece: str, batch: int) -> Generator[object]:
        """Does one unit of a piece at each `next`: a step, a call, a picture."""


def is_ours(side: str) -> bool:
    """Whether a side is this project."""
    return side in ("ours", "ours-compiled", "int8")


# -- what is asked of a benchmark --


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that both comparisons have."""
    parser.add_argument("--sides", nargs="+", choices=SIDES, help="only these; by default all that suit the machine")
    parser.add_argument("--dtype", choices=("auto", "bf16", "fp16", "fp32"), default="auto", help="auto: the fastest")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3, help="units of a piece in a turn; there are two turns")
    parser.add_argument("--cpu-time", action="store_true", help="count processor time: beside other work")
    parser.add_argument("--serve", choices=(*SIDES, "pipelines"), help=argparse.SUPPRESS)


def settle(options: argparse.Namespace) -> None:
    """Put what the machine decides in place of the defaults: the dtype that it multiplies fastest, the sides that it
    can run."""
    import torch

    on_gpu = torch.cuda.is_available()
    if options.dtype == "auto":
        kinds = ("fp16", "bf16") if on_gpu else ("bf16", "fp32")
        options.dtype = max(kinds, key=lambda kind: best_rate(kind, time.perf_counter))
    if options.sides is None:
        options.sides = ["diffusers", "tuned", "ours", *(["tuned-compiled", "ours-compiled"] if on_gpu else ["int8"])]


def dtype_of(options: argparse.Namespace):
    """The torch.dtype of diffusers' weights."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[options.dtype]


def own_stack(entry, options: argparse.Namespace):
    """Our stack as a side's process holds it."""
    from comfyui_unclip.unclip_core.pages import keep_pages
    from comfyui_unclip.unclip_core.stack import load_stack

    keep_pages()
    dtype = "int8" if options.serve == "int8" else options.dtype
    return load_stack(entry, dtype, compiled=options.serve == "ours-compiled")


def tune(network, options: argparse.Namespace, maps: bool) -> None:
    """Make a network of diffusers' as fast as this side wants it. maps: whether it has feature maps."""
    import torch

    if maps and options.serve.startswith("tuned"):
        network.to(memory_format=torch.channels_last)
    if options.serve == "tuned-compiled":
        network.compile(mode="reduce-overhead")


# -- a side's process --


def serve(make: Callable[[], Worker], options: argparse.Namespace, gradients: bool = False) -> None:
    """Be a side: a JSON command a line in, a JSON answer a line out."""
    clock = time.process_time if options.cpu_time else time.perf_counter
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries may print
    import torch

    torch.set_grad_enabled(gradients)
    worker = make()
    synchronise = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    out.write(json.dumps({"answer": None, "peak": 0.0}) + "\n")
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "rate":
            answer = best_rate(options.dtype, clock)
        elif command["do"] == "units":
            units, answer = worker.units(command["piece"], options.batch), []
            for _ in range(command["count"]):
                answer.append(_timed(lambda: next(units), synchronise, clock))  # noqa: B023 - called at once
            units.close()
        else:
            answer = getattr(worker, command.pop("do"))(**command)
        out.write(json.dumps({"answer": answer, "peak": peak_gigabytes()}) + "\n")


def peak_gigabytes() -> float:
    """Largest resident set of this process so far, mapped pages included; on CUDA the device's."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def best_rate(dtype: str, clock: Callable[[], float]) -> float:
    """GFLOP/s: the best of a matrix product and a convolution of the decoder's."""
    import torch

    kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    square = torch.randn(4096, 4096, device=device).to(kind)
    layout = torch.channels_last
    x = torch.randn(2, 320, 64, 64, device=device).to(kind, memory_format=layout)
    weight = torch.randn(320, 320, 3, 3, device=device).to(kind, memory_format=layout)
    calls = (
        (2 * 4096**3, lambda: torch.nn.functional.linear(square, square)),
        (2 * 2 * 64 * 64 * 9 * 320 * 320, lambda: torch.conv2d(x, weight, padding=1)),
    )
    return max(flop / min(_timed(call, synchronise, clock) for _ in range(5)) for flop, call in calls) / 1e9


def _timed(call: Callable[[], object], synchronise: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    synchronise()
    return clock() - start


# -- the parent --


@dataclass
class Side:
    """A side's process, seen from the parent. times: seconds of each unit, by piece. busy: seconds that it worked, its
    start included."""

    name: str
    process: subprocess.Popen
    started: float = 0.0
    busy: float = 0.0
    times: dict[str, list[float]] = field(default_factory=dict)
    peak: float = 0.0

    @classmethod
    def start(cls, name: str, options: argparse.Namespace, *arguments: str, allocator: bool | None = None) -> Side:
        """A process of the same command with more arguments, as this side. allocator: whether it gets the allocator
        setting of `unclip run`; as the name says, if None."""
        command = [sys.executable, *sys.argv, "--dtype", options.dtype, *arguments, "--serve", name]
        allocator = name.startswith("tuned") if allocator is None else allocator
        begin = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | (ALLOCATOR if allocator else {}),
        )
        found = cls(name, process)
        found._answer()
        found.busy = found.started = time.perf_counter() - begin
        return found

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"side {self.name}: its process ended with exit code {self.process.wait()}")
        found = json.loads(line)
        self.peak = found["peak"]
        return found["answer"]

    def ask(self, do: str, **more):
        """Let it work; its answer."""
        begin = time.perf_counter()
        self.process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self.process.stdin.flush()
        found = self._answer()
        self.busy += time.perf_counter() - begin
        return found

    def work(self, piece: str, count: int) -> None:
        """Let it do `count` units of a piece, and keep their seconds."""
        self.times.setdefault(piece, []).extend(self.ask("units", piece=piece, count=count))

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def in_turns(sides: Sequence[Side], piece: str, count: int) -> None:
    """Let every side do a piece twice, the second time in the other order."""
    for order in (sides, tuple(reversed(sides))):
        for side in order:
            side.work(piece, count)


# -- tables --


def tables(seconds: dict[str, dict[str, float]], rows: dict[str, str], floors: dict[str, float]) -> str:
    """Markdown of seconds by side and row: what computes the same picture in one table, int8 in another. rows: their
    names. floors: seconds that a row's operations need at the machine's best rate."""
    theirs = [side for side in seconds if not is_ours(side)]
    exact = [side for side in seconds if is_ours(side) and side != "int8"]
    found = []
    if exact:
        heads = ["the same picture", *(f"{side}, s" for side in (*theirs, *exact))]
        heads += [f"{them} / {us}" for us in exact for them in theirs]
        heads += ["floor, s", "ours over floor"] if floors else []
        lines = []
        for row, name in rows.items():
            cells = [name, *(f"{seconds[side][row]:.3f}" for side in (*theirs, *exact))]
            cells += [f"{seconds[them][row] / seconds[us][row]:.2f}" for us in exact for them in theirs]
            if floors:
                floor = floors.get(row)
                cells += [f"{floor:.3f}", f"{seconds[exact[0]][row] / floor:.2f}"] if floor else ["", ""]
            lines.append(cells)
        found.append(markdown(heads, lines))
    if "int8" in seconds:
        others = [*theirs, *exact]
        heads = ["another picture", "int8, s", *(f"{side} / int8" for side in others)]
        lines = [
            [name, f"{seconds['int8'][row]:.3f}", *(f"{seconds[o][row] / seconds['int8'][row]:.2f}" for o in others)]
            for row, name in rows.items()
        ]
        found.append(markdown(heads, lines))
    return "\n\n".join(found)


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines))
