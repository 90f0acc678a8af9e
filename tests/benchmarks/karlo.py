"""Karlo side by side with diffusers: run by hand, not by CI.

    python tests/benchmarks/karlo.py --write /data/karlo-v1-alpha     # once: random weights of full size, 6.8 GB
    python tests/benchmarks/karlo.py /data/karlo-v1-alpha             # three steps a stage, Markdown
    python tests/benchmarks/karlo.py /data/karlo-v1-alpha --complete  # every step of a picture
    python tests/benchmarks/karlo.py /data/karlo-v1-alpha --tuned     # diffusers: channels-last, our allocator setting
    python tests/benchmarks/karlo.py /data/karlo-v1-alpha --stages prior --batch 4 --steps 2   # holds that stage alone
    python tests/benchmarks/karlo.py /data/karlo-v1-alpha --dtype fp16 --compile      # CUDA graphs on both sides
    OMP_NUM_THREADS=1 python tests/benchmarks/karlo.py /data/karlo-v1-alpha --cpu-time  # beside other work

Two processes hold a picture's networks each, ours and diffusers', and take turns stage by stage, so that both see the
same machine. Diffusers' networks and schedulers are driven as its pipelines drive them, with weights as
`from_pretrained(torch_dtype=...)` gives them. Floor: the stage's operations over the best rate measured in the run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from kernels import rates

CAPTION = "a red star on a night sky"
STAGES = {"prior": 25, "decoder": 25, "super_res": 7}  # steps of a picture
# What diffusers needs for a stage, besides its text encoder.
NETWORKS = {
    "prior": ("prior",),
    "decoder": ("decoder", "text_proj"),
    "super_res": ("super_res_first", "super_res_last"),
}
# Operations of one step with guidance, batch 1, as diffusers computes it.
GFLOP = {"prior": 328.8, "decoder": 1216.6, "super_res": 8497.4}
GUIDANCE = {"prior": 4.0, "decoder": 8.0}
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


def peak_gigabytes() -> float:
    """Largest resident set of this process so far, mapped pages included; on CUDA the device's."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


class Ours:
    """Our stages, as `unclip run` drives them."""

    def __init__(self, folder: Path, dtype: str, compiled: bool, tuned: bool, stages: Sequence[str]) -> None:
        from comfyui_unclip.unclip_core.checkpoints.catalog import find
        from comfyui_unclip.unclip_core.pages import keep_pages
        from comfyui_unclip.unclip_core.stack import load_stack

        keep_pages()
        self.compiled = compiled
        self.stack = load_stack(find(folder.name, [folder.parent]), dtype)
        self.embed = self.image = None

    def text(self) -> None:
        self.encoded = self.stack.clip.encode_text(CAPTION)

    def steps(self, stage: str, batch: int):
        """A generator that makes one step of `stage` at a time."""
        import torch

        from comfyui_unclip.unclip_core.types import Embedding

        if stage == "prior":
            steps = self.stack.prior.sample_steps(self.encoded, candidates=1, count=batch)
        elif stage == "decoder":
            vector = torch.zeros(batch, 768) if self.embed is None else self.embed.vector
            embed = Embedding(vector, self.encoded.clip_id)
            steps = self.stack.decoder.sample_steps(embed, self.encoded)
        else:
            steps = self.stack.upsampler_256.sample_steps(torch.rand(batch, 64, 64, 3))
        if self.compiled:
            self._compile(stage)
        return steps

    def _compile(self, stage: str) -> None:
        import torch

        handle = getattr(self.stack, "upsampler_256" if stage == "super_res" else stage)
        networks = [placed.read() for placed in (handle.network, getattr(handle, "final_network", None)) if placed]
        for network in networks:
            if stage == "prior" and not hasattr(network.step, "_torchdynamo_orig_callable"):
                network.step = torch.compile(network.step, mode="reduce-overhead")
            elif stage != "prior" and network.unet._compiled_call_impl is None:
                network.unet.compile(mode="reduce-overhead")


class Diffusers:
    """The networks and schedulers of diffusers' UnCLIPPipeline, driven step by step."""

    def __init__(self, folder: Path, dtype: str, compiled: bool, tuned: bool, stages: Sequence[str]) -> None:
        import torch
        from diffusers import PriorTransformer, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
        from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
        from transformers import CLIPTextModelWithProjection

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
        kinds = {
            "prior": PriorTransformer,
            "decoder": UNet2DConditionModel,
            "text_proj": UnCLIPTextProjModel,
            "super_res_first": UNet2DModel,
            "super_res_last": UNet2DModel,
            "text_encoder": CLIPTextModelWithProjection,
        }
        self.networks = {}
        for name in ("text_encoder", *(name for stage in stages for name in NETWORKS[stage])):
            kind = kinds[name]
            network = kind.from_pretrained(folder / name, torch_dtype=self.dtype).to(self.device).eval()
            if tuned and name in ("decoder", "super_res_first", "super_res_last"):
                network.to(memory_format=torch.channels_last)
            if compiled and name in ("prior", "decoder", "super_res_first", "super_res_last"):
                network.compile(mode="reduce-overhead")
            self.networks[name] = network
        self.schedulers = {stage: UnCLIPScheduler.from_pretrained(folder / f"{stage}_scheduler") for stage in STAGES}

    def text(self) -> None:
        import torch

        ids = torch.full((1, 77), 49407, device=self.device)
        ids[0, :9] = torch.tensor([49406, 320, 736, 2509, 525, 320, 930, 2390, 49407], device=self.device)
        # The empty caption is a call of its own, as in the pipeline.
        found = []
        for tokens in (torch.full_like(ids, 49407).index_fill_(1, ids.new_tensor([0]), 49406), ids):
            output = self.networks["text_encoder"](tokens)
            found.append((output.text_embeds, output.last_hidden_state))
        self.embeds, self.states = (torch.cat(pair) for pair in zip(*found, strict=True))
        self.mask = torch.arange(77, device=self.device)[None] < torch.tensor([[2], [9]], device=self.device)

    def steps(self, stage: str, batch: int):
        """A generator that makes one step of `stage` at a time."""
        scheduler = self.schedulers[stage]
        scheduler.set_timesteps(STAGES[stage], device=self.device)
        shape, predict = getattr(self, f"_{stage}")(batch)
        latents = self._noise(shape)
        times = scheduler.timesteps
        for index, t in enumerate(times):
            previous = times[index + 1] if index + 1 < len(times) else None
            output = predict(latents, t, index)
            latents = scheduler.step(output, t, latents, prev_timestep=previous).prev_sample
            yield latents

    def _noise(self, shape: tuple[int, ...]):
        import torch

        return torch.randn(shape, device=self.device).to(self.dtype)

    def _rows(self, tensor, batch: int):
        return tensor.repeat_interleave(batch, dim=0)

    def _prior(self, batch: int):
        import torch

        embeds, states, mask = (self._rows(x, batch) for x in (self.embeds, self.states, self.mask))

        def predict(latents, t, index):
            output = self.networks["prior"](
                torch.cat([latents] * 2), t, proj_embedding=embeds, encoder_hidden_states=states, attention_mask=mask
            ).predicted_image_embedding
            null, text = output.chunk(2)
            return null + GUIDANCE["prior"] * (text - null)

        return (batch, 768), predict

    def _decoder(self, batch: int):
        import torch

        states, added = self.networks["text_proj"](
            image_embeddings=self._noise((batch, 768)),
            prompt_embeds=self._rows(self.embeds, batch),
            text_encoder_hidden_states=self._rows(self.states, batch),
            do_classifier_free_guidance=True,
        )
        mask = torch.nn.functional.pad(self._rows(self.mask, batch), (4, 0), value=True)

        def predict(latents, t, index):
            output = self.networks["decoder"](
                torch.cat([latents] * 2), t, encoder_hidden_states=states, class_labels=added, attention_mask=mask
            ).sample
            null, text = output.chunk(2)
            text, variance = text.chunk(2, dim=1)
            null = null[:, :3]
            return torch.cat([null + GUIDANCE["decoder"] * (text - null), variance], dim=1)

        return (batch, 3, 64, 64), predict

    def _super_res(self, batch: int):
        import torch

        large = self._noise((batch, 3, 256, 256))

        def predict(latents, t, index):
            last = index + 1 == STAGES["super_res"]
            network = self.networks["super_res_last" if last else "super_res_first"]
            return network(torch.cat([latents, large], dim=1), t).sample

        return (batch, 3, 256, 256), predict


def serve(side: str, options: argparse.Namespace) -> None:
    """Be one of the two processes: a JSON command a line in, a JSON answer a line out."""
    dtype, clock = options.dtype, time.process_time if options.cpu_time else time.perf_counter
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries may print
    import torch

    torch.set_grad_enabled(False)
    kind = Ours if side == "ours" else Diffusers
    worker = kind(options.folder, dtype, options.compile, options.tuned, options.stages)
    synchronise = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    out.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        command = json.loads(line)
        times: list[float] = []
        if command["do"] == "text":
            times = _timed(worker.text, synchronise, clock)
        elif command["do"] == "rate":
            times = [best_rate(dtype, clock)]
        else:
            steps = worker.steps(command["do"], command["batch"])
            for _ in range(command["steps"]):
                times += _timed(lambda: next(steps), synchronise, clock)  # noqa: B023 - called at once
            steps.close()
        out.write(json.dumps({"times": times, "peak": peak_gigabytes()}) + "\n")


def _timed(call: Callable[[], object], synchronise: Callable[[], object], clock: Callable[[], float]) -> list[float]:
    start = clock()
    call()
    synchronise()
    return [clock() - start]


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
    return max(flop / min(_timed(call, synchronise, clock)[0] for _ in range(5)) for flop, call in calls) / 1e9


@dataclass
class Side:
    """One of the two processes, seen from the parent."""

    process: subprocess.Popen
    started: float = 0.0
    busy: float = 0.0  # seconds that it worked, its start included
    times: dict[str, list[float]] = field(default_factory=dict)
    peak: float = 0.0
    first_decoder_step: float = 0.0

    @classmethod
    def start(cls, side: str, options: argparse.Namespace, tuned: bool) -> Side:
        command = [sys.executable, __file__, str(options.folder), "--serve", side, "--dtype", options.dtype]
        command += ["--stages", *options.stages]
        command += ["--compile"] * options.compile + ["--tuned"] * tuned + ["--cpu-time"] * options.cpu_time
        begin = time.perf_counter()
        environment = os.environ | (ALLOCATOR if tuned else {})
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        found = cls(process)
        found._answer()
        found.busy = found.started = time.perf_counter() - begin
        return found

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the benchmark process ended with exit code {self.process.wait()}")
        return json.loads(line)

    def ask(self, do: str, steps: int = 1, batch: int = 1) -> list[float]:
        """Let it work; returns the seconds of each step."""
        begin = time.perf_counter()
        self.process.stdin.write(json.dumps({"do": do, "steps": steps, "batch": batch}) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.busy += time.perf_counter() - begin
        self.peak = answer["peak"]
        return answer["times"]


def measure(sides: dict[str, Side], options: argparse.Namespace) -> float:
    """Fill the sides' times, taking turns, and return the best rate."""
    for side in sides.values():
        side.times["text"] = side.ask("text")
    for stage, whole in STAGES.items():
        if stage not in options.stages:
            continue
        for side in sides.values():  # the first step reads the weights
            side.times[f"{stage} first"] = side.ask(stage, 1, options.batch)
            if stage == "decoder":
                side.first_decoder_step = side.busy + (STAGES["prior"] - 1) * median(side.times.get("prior", [0.0]))
            if not options.complete:
                side.times[stage] = side.ask(stage, options.steps, options.batch)
            else:
                side.times[stage] = side.ask(stage, whole, options.batch)
        if not options.complete:  # once more each, in the other order
            for side in reversed(sides.values()):
                side.times[stage] += side.ask(stage, options.steps, options.batch)
    return sides["ours"].ask("rate")[0]


def table(sides: dict[str, Side], rate: float, options: argparse.Namespace) -> str:
    """Markdown."""
    names = list(sides)
    other = names[0] if names[0] != "ours" else names[1]
    ours, theirs = sides["ours"], sides[other]
    lines = [
        f"| stage | {other}, s a step | ours, s a step | ratio | floor, s a step | ours over floor |",
        "|---|---|---|---|---|---|",
    ]
    total = {name: sum(side.times["text"]) for name, side in sides.items()}
    for stage in options.stages:
        a, b = median(theirs.times[stage]), median(ours.times[stage])
        for name, side in sides.items():
            times = side.times[stage]
            total[name] += sum(times) if options.complete else STAGES[stage] * median(times)
        floor = GFLOP[stage] * options.batch / rate
        lines.append(f"| {stage} x {STAGES[stage]} | {a:.3f} | {b:.3f} | {a / b:.2f} | {floor:.3f} | {b / floor:.2f} |")
    rows = [
        ("whole picture" if set(options.stages) == set(STAGES) else "these stages", total[other], total["ours"], "s")
    ]
    if "decoder" in options.stages:
        rows.append(("start to first decoder step", theirs.first_decoder_step, ours.first_decoder_step, "s"))
    rows.append(("process start and load", theirs.started, ours.started, "s"))
    rows.append(("peak memory", theirs.peak, ours.peak, "GB"))
    lines += ["", f"| | {other} | ours | theirs / ours | ours / theirs |", "|---|---|---|---|---|"]
    lines += [f"| {name} | {a:.2f} {unit} | {b:.2f} {unit} | {a / b:.2f} | {b / a:.2f} |" for name, a, b, unit in rows]
    return "\n".join([f"best rate {rate:.0f} GFLOP/s, {options.dtype}, batch {options.batch}", "", *lines])


def write_folder(path: Path) -> None:
    """Random weights of full size, with the writer that the tests use."""
    from comfyui_unclip.tests.unclip_core.checkpoints.karlo_folder import write_full_folder

    write_full_folder(path)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a Karlo folder in diffusers' layout")
    parser.add_argument("--write", action="store_true", help="write such a folder with random weights, and stop")
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3, help="steps a turn; a picture is extrapolated by medians")
    parser.add_argument("--stages", nargs="+", choices=tuple(STAGES), default=tuple(STAGES), help="only these")
    parser.add_argument("--complete", action="store_true", help="every step of a picture")
    parser.add_argument("--tuned", action="store_true", help="against channels-last and our allocator setting")
    parser.add_argument("--compile", action="store_true", help="torch.compile (CUDA graphs) on both sides")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count processor time: for a machine shared with others"
    )
    parser.add_argument("--serve", choices=("ours", "diffusers"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    if options.write:
        return write_folder(options.folder)
    if options.serve:
        return serve(options.serve, options)
    print(rates(), flush=True)  # before the sides are there: they keep the processor busy
    sides = {name: Side.start(name, options, options.tuned and name != "ours") for name in ("diffusers", "ours")}
    try:
        rate = measure(sides, options)
        print(table(sides, rate, options))
    finally:
        for side in sides.values():
            side.process.stdin.close()
            side.process.wait()


if __name__ == "__main__":
    main()
