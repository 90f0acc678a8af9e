"""Runs the experiments, one after another, and writes the report: a page that says what was found, and one with all the
numbers. What was computed before is taken from the folder."""

from __future__ import annotations

import platform
import shutil
import sys
import time
from collections.abc import Container, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..disk import write_text
from . import sources
from .context import Context
from .experiments import EXPERIMENTS, Experiment
from .results import Check, Figure, Result, Table


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
        settings, key, shortened = chosen_settings(context, experiment, quick, full)
        result = context.store.load(experiment.name, key)
        cached = result is not None
        if result is None:
            context.tick(experiment.name, 0, 1)
            started, worked, trained = time.perf_counter(), time.process_time(), context.trained
            context.store.begin()
            result = experiment.run(context, settings)
            # Training is reported apart; what runs before this one had sampled took its time, too.
            own = time.process_time() - worked - (context.trained - trained) + context.store.earlier
            seconds, codes = time.perf_counter() - started, sorted(context.store.codes)
            result = replace(result, seconds=seconds, processor=max(0.0, own), codes=codes)
            context.store.save(experiment.name, key, result)
        yield Finished(experiment, result, key, cached, shortened)


def chosen_settings(
    context: Context, experiment: Experiment, quick: bool, full: Container[str]
) -> tuple[Any, str, bool]:
    """An experiment's settings, the key that its result is kept under, and whether they are the quick ones."""
    shortened = quick and experiment.name not in full
    settings = experiment.quick if shortened else experiment.full
    # Changed code, new results; samples stay, so that these take minutes.
    code = sources.judging(sys.modules[experiment.run.__module__])
    key = context.key(experiment.name, asdict(settings), code, siblings=experiment.siblings)
    return settings, key, shortened


def write_report(context: Context, finished: list[Finished], path: Path) -> None:
    """Markdown at `path`, what was found on one page; in the folder of its name beside it `details.md` with all the
    numbers, and the pictures of both."""
    folder = path.parent / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    for done in finished:
        for figure in done.result.figures:
            shutil.copyfile(
                context.store.picture(done.experiment.name, done.key, figure), folder / f"{figure.name}.png"
            )
    _write(folder / DETAILS, _details(context, finished, path.name))
    _write(path, _summary(context, finished, folder.name))


DETAILS = "details.md"


def _write(path: Path, lines: list[str]) -> None:
    write_text(path, "\n".join(lines).rstrip() + "\n")


def _summary(context: Context, finished: list[Finished], folder: str) -> list[str]:
    """One page: claims, what was found, and the pictures that show it."""
    checks = [check.verdict for done in finished for check in done.result.checks]
    counts = ", ".join(f"{checks.count(verdict)} {verdict}" for verdict in ("reached", "undecided", "missed"))
    rows = [
        [f"[{done.experiment.title}]({folder}/{DETAILS}#{_anchor(done)})", done.experiment.paper, " ".join(found)]
        for done in finished
        if (found := done.result.paper or done.result.notes[:1])
    ]
    lines = [
        "# The paper's experiments, at storybook scale",
        "",
        f"{_written_by(context, finished)} Every number with its interval, all pictures and the processor time of each "
        f"part: [details]({folder}/{DETAILS}).",
        "",
        *_table(Table("", ["experiment", "the paper", "here"], rows)),
        "",
        f"Targets: {counts}; an interval that holds the target decides nothing. Distances and shares are of drawings "
        "and compare with each other alone, not with the paper's numbers, which are of photographs.",
        "",
    ]
    for done in finished:
        shown = [figure for figure in done.result.figures if figure.name in done.experiment.shown]
        lines += [line for figure in shown for line in _pictured(f"{folder}/", figure, done.experiment.title)]
    return lines


def _anchor(done: Finished) -> str:
    """The link that a Markdown renderer gives a section's title."""
    kept = "".join(letter for letter in done.experiment.title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def _pictured(folder: str, figure: Figure, title: str = "") -> list[str]:
    caption = f"{title}. {figure.caption}" if title else figure.caption
    return [f"![{caption}]({folder}{figure.name}.png)", "", f"*{caption}*", ""]


def _written_by(context: Context, finished: list[Finished]) -> str:
    """The command, on what and on which machine, how long it took, and with which counts."""
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
    worked = (sum(done.result.processor for done in finished) + sum(context.trainings.values())) / 60
    command = " ".join(
        ["unclip reproduce", *(["--quick"] if quick else []), *(f"--full {done.experiment.name}" for done in mixed)]
    )
    threads = torch.get_num_threads()
    machine = (
        f"{threads} thread{'s' if threads > 1 else ''}, {platform.machine()}, PyTorch {torch.__version__.split('+')[0]}"
    )
    seeds = context.budget.siblings.seeds
    trained = ""
    if any(done.experiment.siblings for done in finished):
        trained = f" Small decoders: {'one training seed' if seeds == 1 else f'{seeds} training seeds'}."
    return (
        f"Written by `{command}` on the stack `{context.entry.name}` (weights {context.weights}), "
        f"{time.strftime('%Y-%m-%d')}; {worked:.0f} minutes of processor time, on {machine}. {scale}{trained}"
        f"{_of_other_code(context, finished)}"
    )


def _of_other_code(context: Context, finished: list[Finished]) -> str:
    """Whose samples the present code did not make, as a sentence; "" for none."""
    others = [done.experiment.title for done in finished if set(done.result.codes) - {context.store.code}]
    if not others:
        return ""
    return (
        f" **Samples of another version** of the networks' and samplers' code, all of them or some, are in: "
        f"{', '.join(others)}; another `--run` makes them anew."
    )


def _details(context: Context, finished: list[Finished], summary: str) -> list[str]:
    lines = [
        "# The paper's experiments: all numbers",
        "",
        f"The [summary](../{summary}) says what was found. {_written_by(context, finished)}",
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
    ]
    for done in finished:
        lines += _section(done)
    times = [[done.experiment.title, f"{done.result.processor / 60:.1f}"] for done in finished]
    times += [[f"training: {name}", f"{seconds / 60:.1f}"] for name, seconds in context.trainings.items()]
    return [
        *lines,
        "## Processor time",
        "",
        "Of all threads and of every run that worked on a part, whichever command trained a judge. The stack's own "
        "training is not counted.",
        "",
        *_table(Table("", ["part", "minutes"], times)),
    ]


def _target_rows(finished: list[Finished]) -> list[list[str]]:
    rows: list[tuple[Finished, Check]] = [(done, check) for done in finished for check in done.result.checks]
    return [[done.experiment.title, *check.row()] for done, check in rows]


def _section(done: Finished) -> list[str]:
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
    return lines + [line for figure in result.figures for line in _pictured("", figure)]


def _table(table: Table) -> list[str]:
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
