"""What the paper's run costs: FLOPs of our PAPER networks, GPU-hours at a stated utilisation, memory per stage.

    python tests/benchmarks/training_cost.py

The FLOPs of a forward and a backward pass of one row are counted by PyTorch on tensors without storage: matrix
products, convolutions and attention, no norms, activations or optimiser. Steps and batches are Table 3's (App. C).
"""

import argparse

import torch
from torch.utils.flop_counter import FlopCounterMode

from comfyui_unclip.unclip_core.models.build import build_network
from comfyui_unclip.unclip_core.presets import PAPER
from comfyui_unclip.unclip_core.training.recipes import PAPER_RECIPES

STAGES = ("prior", "ar_prior", "decoder", "upsampler_256", "upsampler_1024")
PEAK = 989e12  # FLOP/s of an H100 SXM in bfloat16, dense, by its data sheet
UTILISATION = 0.4  # of the peak: what large transformers reach; convolutions mostly stay below
MEMORY = 80e9  # bytes of that GPU
BYTES = 4  # of a float32: weights, gradients, Adam's two moments and the average lie in it
COPIES = 5


def inputs(stage, config):
    """One row of a training step, with captions of full length: (arguments, named ones)."""
    row = torch.zeros(1, dtype=torch.long)
    if stage in ("prior", "ar_prior"):
        length = PAPER.prior.context_length
        tokens = torch.zeros(1, length, config.text_width)
        embed, mask = torch.zeros(1, config.clip_dim), torch.ones(1, length, dtype=bool)
        if stage == "prior":
            return (embed, row, tokens, embed, mask), {}
        codes = torch.zeros(1, config.components, dtype=torch.long)
        return (tokens, embed, mask, row, codes), {"ids": mask.long()}
    if stage == "decoder":
        side, length = config.unet.image_size, config.text_encoder.context_length
        ids = torch.zeros(1, length, dtype=torch.long)
        return (torch.zeros(1, 3, side, side), row), {
            "embed": torch.zeros(1, config.clip_dim),
            "tokens": torch.zeros(1, length, config.text_width),
            "mask": ids.bool(),
            "ids": ids,
        }
    side = config.high_size // PAPER_RECIPES[stage].crop_fraction
    picture = torch.zeros(1, 3, side, side)
    return (picture, row, picture), {}


def counted(stage, config):
    """(parameters, FLOPs of forward and backward pass of one row)."""
    with torch.device("meta"):
        network = build_network(stage, config)
        given, named = inputs(stage, config)
        if stage == "ar_prior":  # cutting a batch to its longest caption reads the mask, which has no values here
            network._text = lambda tokens, mask, ids, drop: (network.text_in(network.text_encoder(ids, mask)), mask)
        with FlopCounterMode(display=False) as counter:
            if stage == "decoder":
                given, named = (*given, network.condition(**named)), {}
            output = network(*given, **named)
            parts = output if isinstance(output, tuple) else (output,)
            sum(part.float().sum() for part in parts).backward()
    return sum(value.numel() for value in network.parameters()), counter.get_total_flops()


def main():
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peak", type=float, default=PEAK, help="FLOP/s of one GPU")
    parser.add_argument("--utilisation", type=float, default=UTILISATION)
    parser.add_argument("--memory", type=float, default=MEMORY, help="bytes of one GPU")
    options = parser.parse_args()
    speed = options.peak * options.utilisation
    print("| stage | parameters | TFLOP a row | steps x batch | EFLOP | GPU-hours | days on 8 | days on 256 |")
    print("|---|---|---|---|---|---|---|---|")
    total, sizes = 0.0, {}
    for stage in STAGES:
        sizes[stage], flop = counted(stage, getattr(PAPER, stage))
        recipe = PAPER_RECIPES[stage]
        work = flop * recipe.steps * recipe.batch
        hours = work / speed / 3600
        if stage != "ar_prior":
            total += hours
        print(
            f"| {stage} | {sizes[stage] / 1e9:.2f} G | {flop / 1e12:.2f} | {recipe.steps:,} x {recipe.batch:,} | "
            f"{work / 1e18:,.0f} | {hours:,.0f} | {hours / 8 / 24:,.0f} | {hours / 256 / 24:,.1f} |"
        )
    print(f"| all but ar_prior | | | | | {total:,.0f} | {total / 8 / 24:,.0f} | {total / 256 / 24:,.1f} |")
    print("\n| stage | weights | + gradients | + Adam | + average: all | left of a GPU | a share of 8 (FSDP2) |")
    print("|---|---|---|---|---|---|---|")
    for stage, size in sizes.items():
        one = size * BYTES / 1e9
        left = options.memory / 1e9 - COPIES * one
        print(
            f"| {stage} | {one:.1f} GB | {2 * one:.1f} | {4 * one:.1f} | {COPIES * one:.1f} | {left:.1f} | "
            f"{COPIES * one / 8:.1f} |"
        )


if __name__ == "__main__":
    main()
