"""What int8 costs in quality and gains in time, beside float32 and bfloat16: run by hand, not by CI.

    python tests/benchmarks/int8.py quality                      # storybook: 500 captions, about an hour on two cores
    python tests/benchmarks/int8.py quality --count 8 --no-judge # a trial
    python tests/benchmarks/int8.py rates                        # convolutions and matrices of Karlo's shapes
    python tests/benchmarks/int8.py steps /data/karlo-v1-alpha   # x_t and seconds of each step; folder: see karlo.py
    OMP_NUM_THREADS=1 python tests/benchmarks/int8.py rates --cpu-time         # beside other work

quality: the same seeds in every dtype, PSNR against float32, and what the judge sees in the pictures; it is trained
into --cache first. Pictures are kept, so a stopped run goes on. Exit code 1 when a target is missed. steps: with random
weights rounding errors grow from step to step as they do in no trained network, so compare int8's only with bfloat16's
beside them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median

MEAN_DB, WORST_DB, WORST_OF, POINT = 38.0, 28.0, 64, 0.01
DTYPES = ("fp32", "bf16", "int8")
# (kind, batch or rows, in, out, side): Karlo's decoder with guidance, its super-resolution, its prior.
SHAPES = (
    ("conv", 2, 320, 320, 64),
    ("conv", 2, 640, 640, 32),
    ("conv", 2, 960, 960, 16),
    ("conv", 2, 1280, 1280, 8),
    ("conv", 1, 640, 640, 128),
    ("conv", 1, 320, 320, 256),
    ("linear", 2048, 640, 1920, 0),
    ("linear", 6, 2048, 8192, 0),
)
CAPTION = "a red star on a night sky"


def quality(options: argparse.Namespace) -> bool:
    """Print the tables of the embedded stack, or of --model. Returns whether every target is met."""
    import torch

    from comfyui_unclip.unclip_core.checkpoints.catalog import find
    from comfyui_unclip.unclip_core.evaluation.context import Context
    from comfyui_unclip.unclip_core.evaluation.report import Plan
    from comfyui_unclip.unclip_core.evaluation.storybook import captions_of
    from comfyui_unclip.unclip_core.pictures.likeness import psnrs
    from comfyui_unclip.unclip_core.stack import load_stack
    from comfyui_unclip.unclip_core.types import Embedding

    entry = find(options.model)
    stacks = {dtype: load_stack(entry, dtype, "cpu") for dtype in DTYPES}
    context = Context(entry, stacks["fp32"], options.output, options.cache)
    scenes = Plan("validation", options.count).scenes("one")
    captions = captions_of(scenes)
    parts: dict[str, list[dict[str, torch.Tensor]]] = {dtype: [] for dtype in DTYPES}
    for start in range(0, len(captions), options.batch):
        told = captions[start : start + options.batch]
        text = context.clip.encode_text(told)
        for dtype, stack in stacks.items():

            def make(stack=stack, text=text, start=start, dtype=dtype) -> dict[str, torch.Tensor]:
                read = text if stack.decoder.reads_text else None
                embed = stack.prior.sample(text, seed=start)
                made = {"vector": embed.vector, "pictures": stack.decoder.sample(embed, read, seed=start)}
                if start < WORST_OF:  # the decoder by itself: every dtype paints what float32 imagined
                    vector = made["vector"] if dtype == "fp32" else parts["fp32"][-1]["vector"]
                    exact = Embedding(vector, context.clip.clip_id)
                    made["alone"] = stack.decoder.sample(exact, read, seed=start)
                return made

            parts[dtype].append(context.store.tensors("rounded", context.key(dtype, told, start), make))
        print(f"{min(start + options.batch, len(captions))} of {len(captions)}", file=sys.stderr)
    if context.store.by_others:
        print("some pictures are of another version of the code; give another -o for new ones", file=sys.stderr)

    def joined(name: str, limit: int | None = None) -> dict[str, torch.Tensor]:
        return {d: torch.cat([part[name] for part in kept if name in part])[:limit] for d, kept in parts.items()}

    pictures, alone, vectors = joined("pictures"), joined("alone", WORST_OF), joined("vector")
    met = True

    print(f"| {options.model}, {len(captions)} captions | " + " | ".join(DTYPES[1:]) + " |\n|---|---|---|")
    rows = {
        f"prior and decoder, dB: mean of {len(captions)}": lambda d: mean(psnrs(pictures[d], pictures["fp32"])),
        "worst": lambda d: min(psnrs(pictures[d], pictures["fp32"])),
        f"decoder alone, dB: mean of {len(alone['fp32'])}": lambda d: mean(psnrs(alone[d], alone["fp32"])),
        "worst ": lambda d: min(psnrs(alone[d], alone["fp32"])),
    }
    for name, compute in rows.items():
        values = [float(compute(dtype)) for dtype in DTYPES[1:]]
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + " |")
    small = pictures["fp32"][: options.enlarged]
    for stage in ("upsampler_256", "upsampler_1024"):
        if stage not in entry.stages or not len(small):
            continue
        large = {dtype: getattr(stack, stage).sample(small, seed=0) for dtype, stack in stacks.items()}
        found = {dtype: psnrs(large[dtype], large["fp32"]) for dtype in DTYPES[1:]}
        cells = " | ".join(f"{mean(values):.1f} ({min(values):.1f})" for values in found.values())
        print(f"| {stage}, dB: mean of {len(small)} (worst) | {cells} |")
        small = large["fp32"]
    found = psnrs(alone["int8"], alone["fp32"])
    met &= bool(mean(found) >= MEAN_DB and min(found) >= WORST_DB)
    cosines = torch.cosine_similarity(vectors["int8"], vectors["fp32"])
    print(f"\nint8's embeddings against float32's: least cosine {float(cosines.min()):.5f}")
    if not options.no_judge:
        met &= attributes(context, pictures, scenes)
    judged = "attributes not judged" if options.no_judge else f"attributes within {POINT:.0%} of float32's"
    print(f"\ntargets {'met' if met else 'MISSED'}: {MEAN_DB:g} dB in the mean, {WORST_DB:g} at worst, {judged}")
    return met


def attributes(context, pictures: dict, scenes: list) -> bool:
    """Print the shares of objects, colours and backgrounds that the judge sees as captioned, and how they differ from
    float32's, caption by caption. Returns whether int8 loses at most a point of each."""
    from fewer_operations import points

    from comfyui_unclip.unclip_core.evaluation.experiments.common import right
    from comfyui_unclip.unclip_core.evaluation.judge import HEADS
    from comfyui_unclip.unclip_core.evaluation.statistics import paired_difference, share

    hits = {dtype: right(context.judge, made, scenes) for dtype, made in pictures.items()}
    print("\n| right | fp32 | bf16 less fp32, points | int8 less fp32, points |\n|---|---|---|---|")
    lost = {}
    for head in (*HEADS, "all"):
        lost[head] = [paired_difference(hits[dtype][head], hits["fp32"][head]) for dtype in DTYPES[1:]]
        print(f"| {head} | {share(hits['fp32'][head]).shown('%')} | " + " | ".join(map(points, lost[head])) + " |")
    return all(differences[-1].value >= -POINT for differences in lost.values())


def rates(options: argparse.Namespace) -> bool:
    """Print GFLOP/s of our own layers, int8's with the rounding of its input."""
    import torch

    from comfyui_unclip.unclip_core.models.integers import IntegerConv2d, IntegerLinear
    from comfyui_unclip.unclip_core.models.kernels import Conv2d, Linear, freeze

    print("| layer | fp32 | bf16 | int8 | int8 / fp32 |\n|---|---|---|---|---|")
    for kind, rows, into, out, side in SHAPES:
        found = {}
        for dtype in DTYPES:
            number = torch.bfloat16 if dtype == "bf16" else torch.float32
            with torch.no_grad():
                if kind == "conv":
                    layer = Conv2d(into, out, 3, padding=1).to(number, memory_format=torch.channels_last)
                    x = torch.randn(rows, into, side, side).to(number, memory_format=torch.channels_last)
                    flop = 2 * 9 * into * out * rows * side**2
                else:
                    layer, x = Linear(into, out).to(number), torch.randn(rows, into).to(number)
                    flop = 2 * into * out * rows
                if dtype == "int8":
                    layer = (IntegerConv2d if kind == "conv" else IntegerLinear).of(layer)
                freeze(layer)
                found[dtype] = flop / best(lambda layer=layer, x=x: layer(x), options) / 1e9
        name = f"{kind} {into} -> {out}, " + (f"{side} px, batch {rows}" if side else f"{rows} rows")
        cells = " | ".join(f"{found[dtype]:.0f}" for dtype in DTYPES)
        print(f"| {name} | {cells} | {found['int8'] / found['fp32']:.2f} |", flush=True)
    return True


def best(call: Callable[[], object], options: argparse.Namespace) -> float:
    """Least seconds of a few calls, after one that packs."""
    call()
    taken = []
    for _ in range(options.repeats):
        start = options.clock()
        call()
        taken.append(options.clock() - start)
    return min(taken)


def steps(options: argparse.Namespace) -> bool:
    """Print, for each stage of a Karlo folder, the error of x_t by step and the seconds of a step, of every dtype."""
    import torch

    from comfyui_unclip.unclip_core.checkpoints.catalog import find
    from comfyui_unclip.unclip_core.pages import keep_pages
    from comfyui_unclip.unclip_core.stack import load_stack
    from comfyui_unclip.unclip_core.types import Embedding

    keep_pages()
    folder = options.folder.resolve()
    stacks = {dtype: load_stack(find(folder.name, [folder.parent]), dtype, "cpu") for dtype in DTYPES}
    text = stacks["fp32"].clip.encode_text(CAPTION)
    generator = torch.Generator().manual_seed(0)
    embed = Embedding(torch.randn(1, text.embed.shape[1], generator=generator), text.clip_id)
    low = torch.rand(1, 64, 64, 3, generator=generator)
    runs = {
        "prior": lambda stack: stack.prior.sample_steps(text, candidates=1),
        "decoder": lambda stack: stack.decoder.sample_steps(embed, text),
        "super_res": lambda stack: stack.upsampler_256.sample_steps(low),
    }
    for stage in options.stages:
        states, taken, held = {}, {}, {}
        for dtype, stack in stacks.items():
            states[dtype], times = [], []
            run, last = runs[stage](stack), options.clock()
            for state in run:
                states[dtype].append(state.x_t.float().clone())
                times.append(options.clock() - last)
                if len(times) == options.steps:
                    break
                last = options.clock()
            run.close()
            taken[dtype] = median(times[1:] or times)  # the first reads and packs
            network = stack.upsampler_256.network if stage == "super_res" else getattr(stack, stage).network
            held[dtype] = network.weight_bytes / 1e9
            network.unload()
        print(f"\n| {stage}, step: error of x_t | " + " | ".join(DTYPES[1:]) + " |\n|---|---|---|")
        for index, exact in enumerate(states["fp32"]):
            errors = [
                float((states[dtype][index] - exact).square().mean().sqrt() / exact.square().mean().sqrt())
                for dtype in DTYPES[1:]
            ]
            print(f"| {index + 1} | " + " | ".join(f"{error:.2%}" for error in errors) + " |")
        print("\nseconds a step: " + ", ".join(f"{dtype} {value:.3f}" for dtype, value in taken.items()))
        print("weights, GB: " + ", ".join(f"{dtype} {value:.2f}" for dtype, value in held.items()), flush=True)
    return True


def main() -> int:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "rates", "steps"))
    parser.add_argument("folder", type=Path, nargs="?", help="steps: a Karlo folder with weights, karlo.py writes one")
    parser.add_argument("--model", default="storybook", help="quality: an installed stack of storybook's kind")
    parser.add_argument("--count", type=int, default=500, help="quality: captions")
    parser.add_argument("--batch", type=int, default=25, help="quality: captions at once")
    parser.add_argument("--enlarged", type=int, default=8, help="quality: pictures that the upsamplers enlarge")
    parser.add_argument("--no-judge", action="store_true", help="quality: decibels alone")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/int8"), help="quality: where pictures are kept")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="quality: where the judge is, or is put")
    parser.add_argument("--stages", nargs="+", choices=("prior", "decoder", "super_res"), help="steps: only these")
    parser.add_argument("--steps", type=int, default=4, help="steps: of each stage")
    parser.add_argument("--repeats", type=int, default=5, help="rates: the best of so many calls")
    parser.add_argument("--cpu-time", action="store_true", help="count processor time: beside other work")
    options = parser.parse_args()
    options.stages = options.stages or ("prior", "decoder", "super_res")
    options.clock = time.process_time if options.cpu_time else time.perf_counter
    if options.what == "steps" and options.folder is None:
        parser.error("steps needs a folder")
    return 0 if {"quality": quality, "rates": rates, "steps": steps}[options.what](options) else 1


if __name__ == "__main__":
    sys.exit(main())
