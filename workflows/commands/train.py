"""`unclip train STAGE`: train one stage of a stack, or all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..terminal import echo, echo_lines
from ._options import cache_option
from ._subject import subject

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm

    from ...unclip_core.training.loop import Progress
    from ...unclip_core.training.lora import LoraSettings
    from ...unclip_core.training.whole import Event

STAGES = ("clip", "prior", "decoder", "upsampler-256", "upsampler-1024", "ar-prior")

EPILOG = """\b
Examples:
  unclip train all --data photos/ --name mine
  unclip train all --data 'shards/{000..011}.tar' --name mine --config mine.toml --take storybook:upsampler-1024
  unclip train decoder --init storybook:decoder --data photos/ --run runs/warmer
  unclip train clip --preset storybook --steps 500
  unclip train all --name mine --data photos/ --print-config > mine.toml
  unclip train decoder --init karlo-v1-alpha:decoder --clip karlo-v1-alpha-image-variations --lora 8 --data photos/
  unclip train upsampler-256 --init storybook:upsampler-256 --through storybook --data photos/
  unclip train subject --help
  torchrun --nproc-per-node 2 -m comfyui_unclip.workflows.cli train prior --name mine --data photos/
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
@click.argument("stage", type=click.Choice(("all", *STAGES)))
@click.option("--data", default="storybook:", show_default=True, help="See `unclip data`.")
@click.option("--name", help="Of the new stack: its ids, runs/NAME, and its folder in Load unCLIP.")
@click.option("--preset", help="Whose networks and recipes.  [default: the config's, that of --init, or storybook]")
@click.option(
    "--config", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="TOML: any size or number."
)
@click.option("--print-config", is_flag=True, help="Print what --config and the rest come to, and stop.")
@click.option("--words", help="Size of a vocabulary counted from the captions, or bpe for CLIP's own.")
@click.option("--run", "run_folder", type=click.Path(path_type=Path), help="Run folder.  [default: runs/[NAME/]STAGE]")
@click.option(
    "--models", type=click.Path(path_type=Path), help="all: model folder.  [default: one that can be written]"
)
@click.option("--stages", help=f"all: which, of {', '.join(STAGES)}.  [default: all but ar-prior]")
@click.option("--take", multiple=True, metavar="MODEL:STAGE", help="all: this stage of an installed model as it is.")
@cache_option
@click.option("--clip", help="Frozen CLIP: a file or an installed model.")
@click.option(
    "--through",
    multiple=True,
    metavar="MODEL",
    help="Upsamplers: learn from what this model's decoder makes of the data. Also a file of a stage. Repeatable.",
)
@click.option("--init", help="Begin with these weights and their config: MODEL:STAGE, a file, or a run's folder.")
@click.option(
    "--lora", type=click.IntRange(1), metavar="RANK", help="Prior, decoder: train a LoRA of --init's weights."
)
@click.option("--lora-layers", type=click.Choice(("attention", "all")), default="attention", show_default=True)
@click.option("--steps", type=click.IntRange(1), help="Optimiser steps.  [default: the recipe's]")
@click.option("--batch", type=click.IntRange(1), help="Rows of a step.")
@click.option("--micro-batch", type=click.IntRange(1), help="Rows computed at once; gradients are accumulated.")
@click.option("--lr", type=click.FloatRange(0, min_open=True))
@click.option("--seed", type=int)
@click.option("--pictures", type=click.IntRange(1), help="Scenes to draw of storybook:.")
@click.option(
    "--set", "changed", multiple=True, metavar="FIELD=VALUE", help="Any other number of the recipe, as text_drop=0.8."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--dtype", default="auto", show_default=True, help="fp32, bf16, fp16; auto: the faster one, measured.")
@click.option("--fp32", is_flag=True, help="--dtype fp32.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option(
    "--workers", type=click.IntRange(0), help="Processes that prepare batches.  [default: 0; on a GPU up to 8]"
)
@click.option("--compile", is_flag=True, help="torch.compile.")
@click.option("--save-memory", is_flag=True, help="Compute blocks again in the backward pass instead of keeping them.")
@click.option("--save-minutes", default=10.0, show_default=True, help="A checkpoint at least so often.")
@click.option("--tensorboard", is_flag=True, help="Also write event files; needs unclip[train].")
def command(
    stage, data, name, preset, config, print_config, words, run_folder, models, stages, take, cache, clip, through,
    init, lora, lora_layers, device, dtype, fp32, threads, workers, compile, save_memory, save_minutes, tensorboard,
    changed, **changes,
) -> int:  # fmt: skip
    """Train one STAGE, or all that a stack NAME lacks, with checkpoints, sample sheets and exact resume."""
    import dataclasses

    import torch

    from ...nodes.host import current_host
    from ...unclip_core.pages import keep_pages
    from ...unclip_core.training.initial import open_initial
    from ...unclip_core.training.loop import LoopOptions, Stopped
    from ...unclip_core.training.lora import FILE_ENDING
    from ...unclip_core.training.plan import make_plan, recipe_changes
    from ...unclip_core.training.recipes import fine_tuning, lora_tuning
    from ...unclip_core.training.sources.opening import processors
    from ...unclip_core.training.start import RunOptions, start
    from ...unclip_core.training.whole import CASCADE, train_all
    from ...unclip_core.training.whole import take as take_stage
    from ...unclip_core.training.world import joined, own_device
    from ._fitting import progress_bar
    from ._options import device_of
    from ._stopping import asked_to_stop

    keep_pages()
    if threads:
        torch.set_num_threads(threads)
    stage = stage.replace("-", "_")
    folders = tuple(current_host().model_folders())
    wanted = _stages(stages) if stages else CASCADE
    _check_together(stage, name, lora, init, through)
    given = {name: value for name, value in changes.items() if value is not None}
    plan = make_plan(
        preset,
        config=config,
        name=name,
        stages=wanted if stage == "all" else (stage,),
        words=int(words) if words and words.isdecimal() else words,
        initial=open_initial(init, stage, folders) if init else None,
        changes={**given, **recipe_changes(changed)},
        tuning=lora_tuning if lora else fine_tuning,
    )
    if print_config:
        echo_lines(plan.to_toml().removesuffix("\n"))
        return 0
    chosen = own_device(device_of(device))
    dtype, settings = _precision("fp32" if fp32 else dtype, chosen, lora, lora_layers)
    ahead = workers if workers is not None else min(8, processors() - 1) if chosen.type == "cuda" else 0
    loop = LoopOptions(
        device=chosen,
        dtype=dtype,
        compile=compile,
        save_memory=save_memory,
        workers=ahead,
        tensorboard=tensorboard,
        save_minutes=save_minutes,
    )
    runs = Path("runs") / name if name else Path("runs")
    with joined(chosen) as world, progress_bar() as progress, asked_to_stop() as stop:
        made = f"{stage}{FILE_ENDING if lora else ''}"
        run = run_folder or (runs if stage == "all" else runs / made)
        shown, say = progress if world.first else None, echo if world.first else _nothing
        note = (lambda text: echo(text, err=True)) if world.first else None
        options = RunOptions(stage, run, data, cache, clip, settings, folders, loop, shown, note, stop, through)
        try:
            if stage == "all":
                target = _target(name, models, folders)
                with world.first_alone():
                    for each in take:
                        source, _, part = each.partition(":")
                        say(f"{part} of {source}: {take_stage(source, part.replace('-', '_'), target, folders)}")
                _show_all(train_all(options, plan, name, target, wanted), world.first)
                say(f"{name} is in {target}: unclip run text_to_image -s model={name}")
            else:
                if clip is None and name and (own := _clip_of(name, runs, models, folders)):
                    options = dataclasses.replace(options, clip=own)
                _show_one(start(options, plan), stage, plan.recipe(stage).steps, world.first)
                say(f"wrote {run}/{made}.safetensors{', for Apply LoRA: put it into models/loras' if lora else ''}")
        except Stopped as stopped:
            say(str(stopped), err=True)
            return 128 + stop.number
    return 0


def _check_together(stage: str, name: str | None, lora: int | None, init: str | None, through: tuple[str, ...]) -> None:
    """Raises UsageError for options that do not go together."""
    if lora and (stage == "all" or name):
        raise click.UsageError("--lora is of one stage of --init's model, which keeps its name")
    if stage != "all":
        return
    if not name:
        raise click.UsageError("train all needs --name: what the stack is to be called in Load unCLIP")
    if init:
        raise click.UsageError("--init begins one stage; name that stage instead of all")
    if through:
        raise click.UsageError("--through is of one upsampler; train it by its own name, once the decoder is there")


def _precision(dtype: str, device: torch.device, lora: int | None, layers: str) -> tuple[str, LoraSettings | None]:
    """What a run computes in, and what its LoRA is made of: None without one. Raises ValueError."""
    from ...unclip_core.training.lora import LoraSettings, precision_for
    from ...unclip_core.training.precision import checked

    if dtype != "auto":
        checked(dtype, device)
    if not lora:
        return dtype, None
    dtype, base = precision_for(device, dtype)
    return dtype, LoraSettings(lora, layers, base)


def _nothing(*what: object, **how: object) -> None:
    """What the processes beside the first one say."""


def _stages(text: str) -> tuple[str, ...]:
    """The stages of a list, in the order in which they depend on each other."""
    asked = [part.strip().replace("_", "-") for part in text.split(",") if part.strip()]
    if unknown := [part for part in asked if part not in STAGES]:
        raise click.BadParameter(f"{unknown[0]!r} is unknown; choose of {', '.join(STAGES)}", param_hint="--stages")
    return tuple(stage.replace("-", "_") for stage in STAGES if stage in asked)


def _target(name: str, models: Path | None, folders: tuple[Path, ...]) -> Path:
    """The folder of the new stack, in a model folder that can be written. Raises ValueError where there is none, or
    where another folder's stack of that name would be loaded instead."""
    from ...unclip_core.checkpoints.catalog import ENVIRONMENT, list_stacks, writable_folder

    if name in (".", "..") or set(name) & set('/\\:*?"<>|'):
        raise ValueError(f"--name {name}: it is to be the name of a folder; leave out slashes and signs as : * ?")
    root = models.expanduser() if models else writable_folder(folders)
    if root is None:
        raise ValueError(f"no model folder to put {name} into; give --models FOLDER, or set ${ENVIRONMENT} to one")
    found = list_stacks(folders).get(name)
    if found is not None and found.folder.resolve() != (root / name).resolve():
        raise ValueError(f"--name {name}: a model of that name is in {found.folder}; choose another name")
    return root / name


def _clip_of(name: str, runs: Path, models: Path | None, folders: tuple[Path, ...]) -> str | None:
    """The CLIP of the stack that this stage is for: the one installed, else the one trained in its runs."""
    from ...unclip_core.checkpoints.catalog import list_stacks, writable_folder

    root = models or writable_folder(folders)
    installed = list_stacks(folders).get(name)
    places = [installed.folder] if installed else [root / name] if root else []
    files = [place / "clip.safetensors" for place in (*places, runs / "clip")]
    return next((str(path) for path in files if path.is_file()), None)


def _show_one(steps: Iterator[Progress], stage: str, total: int, shown: bool) -> None:
    """A bar for a stage's steps."""
    from tqdm import tqdm

    with tqdm(total=total, unit="step", dynamic_ncols=True, desc=f"train {stage}", disable=not shown) as bar:
        for progress in steps:
            _advance(bar, progress)


def _show_all(events: Iterator[Event], shown: bool) -> None:
    """A bar for each stage that is trained, a line for what becomes of it."""
    from tqdm import tqdm

    bar = None
    try:
        for event in events:
            if not shown:
                continue
            if event.progress is not None:
                if bar is None:
                    bar = tqdm(total=event.progress.steps, unit="step", dynamic_ncols=True, desc=f"train {event.stage}")
                _advance(bar, event.progress)
                continue
            if bar is not None:
                bar.close()
                bar = None
            echo(f"{event.stage}: {event.what}{f' ({event.note})' if event.note else ''}")
    finally:
        if bar is not None:
            bar.close()


def _advance(bar: tqdm, progress: Progress) -> None:
    bar.update(progress.step - bar.n)
    numbers = " ".join(f"{name} {value:.4g}" for name, value in progress.numbers.items())
    bar.set_postfix_str(f"loss {progress.loss:.4f} {numbers} {progress.pictures_per_second:.0f} pictures/s")
