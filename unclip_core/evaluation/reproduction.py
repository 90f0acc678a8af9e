"""Runs the experiments, one after another, and writes the report. What was computed before is taken from the folder."""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import shutil
import sys
import time
from collections.abc import Container, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from .context import Context
from .experiments import EXPERIMENTS, Experiment
from .results import Check, Result, Table


@dataclass(frozen=True)
class Finished:
    """One experiment's result and where it is kept. cached: it was there already. quick: made with quick settings."""

    experiment: Experiment
    result: Result
    key: str
    cached: bool
    quick: bool


def chosen(names: Iterable[str]) -> list[Experiment]:
    """The experiments of these names, all of them for none. Raises ValueError for an unknown one."""
    names = list(names)
    if unknown := [name for name in names if name not in EXPERIMENTS]:
        raise ValueError(f"reproduce: experiment {unknown[0]!r} is unknown; choose of {', '.join(EXPERIMENTS)}")
    return [experiment for name, experiment in EXPERIMENTS.items() if not names or name in names]


def run_all(
    context: Context, experiments: Iterable[Experiment], quick: bool, full: Container[str] = ()
) -> Iterator[Finished]:
    """Run what is not kept yet; yields each experiment as it is finished. full: names not to be quick with."""
    for experiment in experiments:
        shortened = quick and experiment.name not in full
        settings = experiment.quick if shortened else experiment.full
        key = context.key(experiment.name, asdict(settings), _source(experiment))
        result = context.store.load(experiment.name, key)
        cached = result is not None
        if result is None:
            context.tick(experiment.name, 0, 1)
            started, worked = time.perf_counter(), time.process_time()
            result = experiment.run(context, settings)
            spent = {"seconds": time.perf_counter() - started, "processor": time.process_time() - worked}
            result = replace(result, **spent)
            context.store.save(experiment.name, key, result)
        yield Finished(experiment, result, key, cached, shortened)


def _source(experiment: Experiment) -> str:
    """A hash of the experiment's code: changed code, new results."""
    text = inspect.getsource(sys.modules[experiment.run.__module__])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_report(context: Context, finished: list[Finished], path: Path) -> None:
    """Markdown at `path`, pictures in the folder of its name beside it."""
    pictures = path.parent / path.stem
    pictures.mkdir(parents=True, exist_ok=True)
    lines = _head(context, finished)
    for done in finished:
        for figure in done.result.figures:
            shutil.copyfile(
                context.store.picture(done.experiment.name, done.key, figure), pictures / f"{figure.name}.png"
            )
        lines += _section(done, pictures.name)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _head(context: Context, finished: list[Finished]) -> list[str]:
    quick, full = ([done for done in finished if done.quick is kind] for kind in (True, False))
    mixed = full if quick else []
    scale = (
        "**Quick run**: counts, steps and the training of judges and small decoders are cut down, so intervals "
        "are wide and ceilings lower than in a full one (`unclip reproduce` without `--quick`)."
        if quick
        else "Full run."
    )
    if mixed:
        titles = ", ".join(done.experiment.title for done in mixed)
        scale += f" **Full counts** were given to: {titles}; the judge is fully trained for all."
    minutes, worked = (sum(getattr(done.result, spent) for done in finished) / 60 for spent in ("seconds", "processor"))
    command = " ".join(
        ["unclip reproduce", *(["--quick"] if quick else []), *(f"--full {done.experiment.name}" for done in mixed)]
    )
    threads = torch.get_num_threads()
    machine = (
        f"{threads} thread{'s' if threads > 1 else ''}, {platform.machine()}, PyTorch {torch.__version__.split('+')[0]}"
    )
    lines = [
        "# The paper's experiments, at storybook scale",
        "",
        f"Written by `{command}` on the stack `{context.entry.name}` (weights {context.weights}), "
        f"{time.strftime('%Y-%m-%d')}; {minutes:.1f} minutes, {worked:.1f} of processor time, on {machine}; models "
        f"and samples kept from before took none. {scale}",
        "",
        "Scenes that results come from are held out: their combinations of object, colour and background are in no "
        "training picture of any stage or judge. Guidance and theta are chosen on training scenes, one value for all "
        "pictures of a kind. Numbers in brackets are 95 % intervals; a target is reached or missed where the whole "
        "interval lies on one side of it, else undecided. Section numbers are those of Ramesh et al. 2022, whose "
        "numbers are FID on photographs; ours are of drawings and compare with each other alone.",
        "",
        "## Targets",
        "",
        *_table(
            Table("", ["experiment", "measured", "value (95 % interval)", "target", "verdict"], _target_rows(finished))
        ),
        "",
        "## How this stands to the paper",
        "",
        *(f"- **{done.experiment.title}.** {said}" for done in finished for said in done.result.paper),
        "",
    ]
    return lines


def _target_rows(finished: list[Finished]) -> list[list[str]]:
    rows: list[tuple[Finished, Check]] = [(done, check) for done in finished for check in done.result.checks]
    return [[done.experiment.title, *check.row()] for done, check in rows]


def _section(done: Finished, folder: str) -> list[str]:
    result, claim = done.result, done.experiment.paper
    lines = [
        f"## {done.experiment.title}",
        "",
        f"{claim[0].upper()}{claim[1:]}. {result.processor:.0f} s of processor time.",
        "",
    ]
    if result.checks:
        columns = ["measured", "value (95 % interval)", "target", "verdict"]
        lines += [*_table(Table("", columns, [check.row() for check in result.checks])), ""]
    for table in result.tables:
        lines += [f"{table.title}:", "", *_table(table), ""]
    for note in (*result.paper, *result.notes):
        lines += [note, ""]
    for figure in result.figures:
        lines += [f"![{figure.caption}]({folder}/{figure.name}.png)", "", f"*{figure.caption}*", ""]
    return lines


def _table(table: Table) -> list[str]:
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
