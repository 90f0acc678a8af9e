"""`unclip train STAGE`: train one stage of a stack."""

from __future__ import annotations

from pathlib import Path

import click

from ._options import cache_option
from ._subject import subject

STAGES = ("clip", "prior", "decoder", "upsampler-256", "upsampler-1024", "ar-prior")

EPILOG = """\b
Examples:
  unclip train clip --preset storybook
  unclip train decoder --clip runs/clip/clip.safetensors --run runs/decoder
  unclip train decoder --init runs/decoder/decoder.safetensors --run runs/decoder-2 --steps 3000
  unclip train upsampler-256 --data 'shards/*.tar'
  unclip train subject --help
\b
Stop it at any time: the same command goes on where the last checkpoint was.
"""


class _Train(click.Command):
    """`subject` is no stage: it has options of its own."""

    def make_context(self, info_name, args, parent=None, **extra) -> click.Context:
        if args[:1] == ["subject"]:
            return subject.make_context(f"{info_name} subject", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command(cls=_Train, epilog=EPILOG)
@click.argument("stage", type=click.Choice(STAGES))
@click.option("--preset", default="storybook", show_default=True, help="Which stack's networks and recipe.")
@click.option("--run", "run_folder", type=click.Path(path_type=Path), help="Run folder.  [default: runs/STAGE]")
@click.option("--data", default="storybook", show_default=True, help="Rendered scenes, a folder, or .tar shards.")
@cache_option
@click.option("--clip", type=click.Path(path_type=Path, exists=True), help="Frozen CLIP of priors and decoder.")
@click.option("--init", type=click.Path(path_type=Path, exists=True), help="Continue from these weights.")
@click.option("--steps", type=click.IntRange(1), help="Optimiser steps.  [default: the recipe's]")
@click.option("--batch", type=click.IntRange(1))
@click.option("--lr", type=click.FloatRange(0, min_open=True))
@click.option("--seed", type=int)
@click.option("--pictures", type=click.IntRange(1), help="Scenes to draw for training.")
@click.option(
    "--set", "changed", multiple=True, metavar="FIELD=VALUE", help="Any other number of the recipe, as text_drop=0.8."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--fp32", is_flag=True, help="No bf16 autocast.")
def command(stage, preset, run_folder, data, cache, clip, init, device, threads, fp32, changed, **changes) -> None:
    """Train one STAGE alone, with checkpoints, sample sheets and exact resume."""
    import torch
    from tqdm import tqdm

    from ...unclip_core.pages import keep_pages
    from ...unclip_core.runtime.device import pick_device
    from ...unclip_core.training.start import RunOptions, recipe_changes, recipe_for, start

    keep_pages()
    if threads:
        torch.set_num_threads(threads)
    stage = stage.replace("-", "_")
    recipe = recipe_for(preset, stage, **{**changes, **recipe_changes(changed)})
    chosen = str(pick_device()) if device == "auto" else device
    options = RunOptions(stage, preset, run_folder, data, cache, clip, init, chosen, not fp32)
    with tqdm(total=recipe.steps, unit="step", dynamic_ncols=True, desc=f"train {stage}") as bar:
        for progress in start(options, recipe):
            bar.update(progress.step - bar.n)
            numbers = " ".join(f"{name} {value}" for name, value in progress.numbers.items())
            bar.set_postfix_str(f"loss {progress.loss:.4f} {numbers} {progress.pictures_per_second:.0f} pictures/s")
    click.echo(f"wrote {options.run or Path('runs') / stage}/{stage}.safetensors")
