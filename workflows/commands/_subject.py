"""`unclip train subject`: a subject of one's own from a few pictures, as a LoRA file with a new word."""

from __future__ import annotations

from pathlib import Path

import click

from ..terminal import echo
from ._options import cache_option

EPILOG = """\b
Examples:
  unclip train subject --pictures my_cup/ --word sks_cup --class cup --model storybook
  unclip train subject --pictures my_cup/ --word sks_cup --class cup --model karlo-v1-alpha --save-memory
  unclip train subject --pictures my_cup/ --word sks_cup --class cup --rank 0
\b
Captions (0001.txt beside 0001.png) may say the word, "a red sks_cup on the sea": what they name is no part of it.
Stop it at any time: the same command goes on where the last checkpoint was.
"""


@click.command("subject", epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--pictures", required=True, type=click.Path(path_type=Path), help="Folder with some 5 to 50 pictures.")
@click.option("--word", required=True, help="New to CLIP, as sks_cup: what captions will call the subject.")
@click.option("--class", "kind", required=True, help="Word that CLIP knows for what the subject is, as cup.")
@click.option("--model", default="storybook", show_default=True, help="Installed model that learns it.")
@click.option(
    "--clip", help="Installed model whose CLIP sees the pictures.  [default: MODEL's, or one that has the same]"
)
@click.option("--rank", default=8, show_default=True, type=click.IntRange(0), help="Of the LoRA; 0: the word alone.")
@click.option("--layers", type=click.Choice(("attention", "all")), help="[default: all in small networks]")
@click.option(
    "--class-pictures", type=click.IntRange(0), help="Painted to keep the class and other things.  [default: 2 each]"
)
@click.option("--run", "run_folder", type=click.Path(path_type=Path), help="Run folder.  [default: runs/WORD]")
@click.option("--loras", type=click.Path(path_type=Path), help="Folder for the file.  [default: where it is found]")
@cache_option
@click.option("--steps", type=click.IntRange(1), help="Optimiser steps.  [default: the recipe's]")
@click.option("--batch", type=click.IntRange(1), help="The subject's rows of a step, and as many of the class.")
@click.option("--micro-batch", type=click.IntRange(1), help="Rows computed at once; gradients are accumulated.")
@click.option("--lr", type=click.FloatRange(0, min_open=True))
@click.option("--seed", type=int)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--dtype", default="auto", show_default=True, help="fp32, bf16, fp16; auto: the faster one, measured.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--save-memory", is_flag=True, help="Compute blocks again in the backward pass instead of keeping them.")
def subject(
    pictures, word, kind, model, clip, rank, layers, class_pictures, run_folder, loras, cache, device, dtype, threads,
    save_memory, **changes,
) -> int:  # fmt: skip
    """Teach a model a subject from a few pictures: its word, what its caption means, how it looks."""
    import dataclasses

    import torch
    from tqdm import tqdm

    from ...nodes.host import current_host
    from ...unclip_core.checkpoints.catalog import find
    from ...unclip_core.pages import keep_pages
    from ...unclip_core.training.loop import LoopOptions, Stopped
    from ...unclip_core.training.lora import LoraSettings, precision_for
    from ...unclip_core.training.subject_run import (
        SubjectOptions,
        default_layers,
        install,
        start_subject,
        subject_recipe,
    )
    from ._fitting import progress_bar
    from ._options import device_of
    from ._stopping import asked_to_stop

    keep_pages()
    if threads:
        torch.set_num_threads(threads)
    host = current_host()
    folders = tuple(host.model_folders())
    entry = find(model, folders)
    target = loras.expanduser() if loras else _lora_folder(host)
    given = {name: value for name, value in changes.items() if value is not None}
    recipe = dataclasses.replace(subject_recipe(entry), **given)
    recipe.check("recipe.subject")
    chosen = device_of(device)
    dtype, base = precision_for(chosen, dtype)
    settings = LoraSettings(rank, layers or default_layers(entry)) if rank else None
    loop = LoopOptions(device=chosen, dtype=dtype, save_memory=save_memory, sheet_every=100)
    run = run_folder or Path("runs") / word
    given = (pictures, word, kind, run, model, settings, base, class_pictures, clip, cache, folders, loop)
    with progress_bar() as progress, asked_to_stop() as stop:
        try:
            steps = start_subject(SubjectOptions(*given, progress, stop), recipe)
            with tqdm(total=recipe.steps, unit="step", dynamic_ncols=True, desc=f"train {word}") as bar:
                for step in steps:
                    bar.update(step.step - bar.n)
                    bar.set_postfix_str(" ".join(f"{name} {value:.4g}" for name, value in step.numbers.items()))
        except Stopped as stopped:
            echo(str(stopped), err=True)
            return 128 + stop.number
    made = run / f"{word}.safetensors"
    echo(f"wrote {made}")
    if target is None:
        echo("put it into models/loras of ComfyUI, or into the folder loras of a model folder, for Apply LoRA")
    else:
        echo(f"Apply LoRA lists it as {install(made, target).name}, from {target}; say {word} in the caption")
    return 0


def _lora_folder(host) -> Path | None:
    """Where Apply LoRA looks and files can be made: the editor's LoRA folder, else `loras` in a model folder."""
    from ...unclip_core.checkpoints.catalog import LORAS, writable_folder

    own = [folder for folder in host.lora_folders() if folder.is_dir()]
    if own:
        return own[0]
    root = writable_folder(host.model_folders())
    return None if root is None else root / LORAS
