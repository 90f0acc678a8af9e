"""How long a picture takes, stage by stage, and how much memory: run by hand, not by CI.

    python tests/benchmarks/storybook.py                # prints Markdown
    python tests/benchmarks/storybook.py --check        # exit code 1 when a target is missed

A cold `unclip run` in a process of its own is timed from its start to the finished PNG, with its peak memory. Then two
pictures are made in this process through the stages' generators: the first reads the weights, the second is warm.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from kernels import rates

ROOT = Path(__file__).resolve().parents[2]
GRAPH = ROOT / "workflows" / "text_to_image.json"
PROMPT = "a red star on a night sky"
COLD_SECONDS, UPSAMPLER_SECONDS, PEAK_GIGABYTES, WARM_SECONDS = 30.0, 10.0, 2.5, 15.0  # on two cores
BESIDE_SECONDS = 1.5  # of a cold run, beside importing torch and the stages themselves


@dataclass
class Timing:
    """One stage of one picture. steps: seconds of each sampling step."""

    seconds: float = 0.0
    steps: list[float] = field(default_factory=list)


Picture = dict[str, Timing]


def cold_run(graph: Path, prompt: str) -> tuple[float, float]:
    """(seconds from process start to the saved file, peak memory in GB) of `unclip run`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "comfyui_unclip.workflows.cli", "run", str(graph), "-q"]
        command += ["-s", f"prompt={prompt}", "-s", "seed=1", "-o", folder]
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        saved = None
        for line in child.stdout:  # a line per saved picture, printed once it is whole
            if line.strip().endswith(".png"):
                saved = time.perf_counter() - start
        # This child's own peak, which RUSAGE_CHILDREN would mix with others'.
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode or saved is None or not any(Path(folder).glob("*.png")):
            raise SystemExit(f"unclip run failed with exit code {child.returncode}: {' '.join(command)}")
        return saved, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def start_of(program: str) -> float:
    """Seconds of a Python process that runs `program`."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - begin


def timed_stages(handles: dict, settings: dict[str, dict], prompt: str, seed: int, file: Path) -> Picture:
    """Make one picture as the graph does, with the time of each stage and step."""
    import torch

    from comfyui_unclip.unclip_core.stages import finish
    from comfyui_unclip.unclip_core.training.sheets import grid, save_png

    timings: Picture = {}

    def timed(name: str, run):
        timing = timings[name] = Timing()
        begin = last = time.perf_counter()

        def on_step(state) -> None:
            nonlocal last
            now = time.perf_counter()
            timing.steps.append(now - last)
            last = now

        result = run(on_step)
        timing.seconds = time.perf_counter() - begin
        return result

    with torch.inference_mode():
        text = timed("CLIP text", lambda _: handles.clip.encode_text([prompt]))
        embed = timed(
            "prior",
            lambda on_step: finish(handles.prior.sample_steps(text, seed=seed, **settings["prior"]), on_step),
        )
        image = timed(
            "decoder",
            lambda on_step: finish(
                handles.decoder.sample_steps(embed, text, seed=seed, **settings["decoder"]), on_step
            ),
        )
        for stage in ("upsampler_256", "upsampler_1024"):
            picture, upsampler = image, getattr(handles, stage)
            image = timed(stage, lambda on_step, u=upsampler, p=picture: finish(u.sample_steps(p, seed=seed), on_step))
        timed("PNG", lambda _: save_png(grid(image), file))
    return timings


def machine() -> str:
    """Processor, cores, memory and versions in one line."""
    import torch

    from comfyui_unclip.unclip_core.processor import computes_fast_in_bf16, this_processor
    from comfyui_unclip.unclip_core.runtime.device import pick_device, pick_dtype

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = pick_device()
    dtype = str(pick_dtype("auto", device)).removeprefix("torch.")
    bf16 = "with" if computes_fast_in_bf16(this_processor()) else "without"
    return (
        f"{name}, {cores} cores ({bf16} fast bf16), {torch.get_num_threads()} threads, {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, stages on {device} in {dtype}"
    )


def stage_table(first: Picture, second: Picture) -> str:
    """Markdown: seconds of each stage of both pictures, and milliseconds of the warm one's steps."""
    lines = ["| stage | steps | first, s | warm, s | per step, ms | slowest step, ms |", "|---|---|---|---|---|---|"]
    for name, warm in second.items():
        per_step = slowest = ""
        if warm.steps:
            per_step = f"{1000 * sum(warm.steps) / len(warm.steps):.0f}"
            slowest = f"{1000 * max(warm.steps):.0f}"
        count = len(warm.steps) or ""
        lines.append(f"| {name} | {count} | {first[name].seconds:.2f} | {warm.seconds:.2f} | {per_step} | {slowest} |")
    totals = [sum(timing.seconds for timing in picture.values()) for picture in (first, second)]
    lines.append(f"| all | | {totals[0]:.2f} | {totals[1]:.2f} | | |")
    return "\n".join(lines)


def target_table(rows: list[tuple[str, float, float, str]]) -> str:
    """Markdown: (what, measured, target, unit) with whether the target is met."""
    lines = ["| measured | value | target | |", "|---|---|---|---|"]
    for what, value, target, unit in rows:
        lines.append(f"| {what} | {value:.2f} {unit} | {target:g} {unit} | {'met' if value <= target else 'MISSED'} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", type=Path, default=GRAPH)
    parser.add_argument("--stack", default="storybook", help="what the two warm pictures are made with")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--check", action="store_true", help="exit code 1 when a target is missed")
    options = parser.parse_args()

    seconds, peak = cold_run(options.graph, options.prompt)
    torch_seconds = start_of("import torch")

    from comfyui_unclip.unclip_core.checkpoints.catalog import find
    from comfyui_unclip.unclip_core.pages import keep_pages
    from comfyui_unclip.unclip_core.stack import load_stack
    from comfyui_unclip.workflows.commands.evaluate import saved_settings

    keep_pages()
    settings = saved_settings(options.graph)
    handles = load_stack(find(options.stack), "auto")
    with tempfile.TemporaryDirectory() as folder:
        first, second = (
            timed_stages(handles, settings, options.prompt, seed, Path(folder) / f"{seed}.png") for seed in (1, 2)
        )
    sampling = sum(timing.seconds for timing in first.values())
    rows = [
        (
            "cold run beside `import torch` and the stages",
            seconds - torch_seconds - sampling,
            BESIDE_SECONDS,
            "s",
        ),
        ("cold `unclip run`, start to file", seconds, COLD_SECONDS, "s"),
        ("peak memory of that process", peak, PEAK_GIGABYTES, "GB"),
        ("first 1024 upsampling", first["upsampler_1024"].seconds, UPSAMPLER_SECONDS, "s"),
        ("warm second picture", sum(timing.seconds for timing in second.values()), WARM_SECONDS, "s"),
    ]
    parts = f"cold run {seconds:.2f} s: import torch {torch_seconds:.2f}, stages {sampling:.2f}"
    print(f"{machine()}\n\n{rates()}\n\n{parts}\n\n{target_table(rows)}\n\n{stage_table(first, second)}")
    return int(options.check and any(value > target for _, value, target, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
