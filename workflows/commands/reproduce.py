"""`unclip reproduce`: the paper's experiments at storybook scale, as a report."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import click

from ..terminal import echo
from ._fitting import one_bar
from ._options import cache_option

EPILOG = """\b
Examples:
  unclip reproduce --quick                            # under 10 minutes on 2 cores
  unclip reproduce --only variations --only text_diff
  unclip reproduce --quick -o docs/reproduction.md
  unclip reproduce --quick --full variations --full interpolation
  unclip reproduce --plan                             # what each part will cost, then stop
  unclip reproduce --stack storybook --seeds 3 --sibling-minutes 60
\b
Stop it at any time: the same command goes on with the samples that were under way. More --sibling-minutes go on with
the small decoders' training, too.
"""


@click.command(epilog=EPILOG)
@click.option("--stack", default="storybook", show_default=True, help="Installed stack, trained on storybook scenes.")
@click.option("--quick", is_flag=True, help="Small counts and short training: under 10 minutes on 2 cores.")
@click.option(
    "--only", multiple=True, metavar="NAME", help="An experiment; may be given several times.  [default: all]"
)
@click.option("--full", multiple=True, metavar="NAME", help="With --quick: an experiment to run with full counts.")
@click.option("--plan", "planned", is_flag=True, help="Show the processor time that each part will take, and stop.")
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Trainings of the small decoders.",
)
@click.option(
    "--sibling-minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Processor time to train each small decoder for, at most.  [default: 35; with --quick 2]",
)
@click.option("--list", "listed", is_flag=True, help="Show the experiments and stop.")
@click.option("--run", "run_folder", type=click.Path(path_type=Path), default=Path("runs/reproduce"), show_default=True)
@cache_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The report.  [default: RUN/report.md]")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
def command(
    stack, quick, only, full, planned, seeds, sibling_minutes, listed, run_folder, cache, output, threads
) -> None:
    """Run the paper's experiments and write a report: a page of findings, and one with all tables and pictures."""
    import torch

    from ...nodes.host import current_host
    from ...unclip_core.checkpoints.catalog import find
    from ...unclip_core.disk import make_folder
    from ...unclip_core.evaluation.context import FULL, QUICK, Context
    from ...unclip_core.evaluation.reproduction import chosen, run_all, write_report
    from ...unclip_core.pages import keep_pages
    from ...unclip_core.stack import load_stack

    experiments = chosen(only)
    if full and (not quick or not {each.name for each in chosen(full)} <= {each.name for each in experiments}):
        raise ValueError(f"--full {' '.join(full)}: for --quick, and experiments that --only does not leave out")
    if listed:
        for experiment in experiments:
            echo(f"{experiment.name:18}{experiment.title} ({experiment.paper})")
        return
    path = output or run_folder / "report.md"
    if path.suffix != ".md" or path.is_dir():  # now, and not after the first hour of work
        raise ValueError(f"-o {path}: give a file's name that ends in .md; a folder of that name gets the pictures")
    folders = current_host().model_folders()
    entry = find(stack, folders)
    _check_stages(entry)
    keep_pages()
    torch.set_num_threads(threads or os.cpu_count() or 1)
    budget = QUICK if quick else FULL
    if full:
        budget = replace(budget, judge=FULL.judge)
    raised = {"seeds": seeds} | ({"minutes": sibling_minutes} if sibling_minutes else {})
    budget = replace(budget, siblings=replace(budget.siblings, **raised))
    handles, finished = load_stack(entry, folders=folders), []
    if planned:
        from ...unclip_core.evaluation.planning import Planning

        return _show_plan(Planning(entry, handles, run_folder, cache, budget), experiments, quick, full)
    for folder in (run_folder, path.parent):
        make_folder(folder)
    with one_bar(bar_format="{desc}{n_fmt}/{total_fmt} |{bar}| {elapsed}", mininterval=0.5) as (bar, tick):
        context = Context(entry, handles, run_folder, cache, budget, tick)
        for done in run_all(context, experiments, quick, full):
            finished.append(done)
            bar.write(_line(done))
            write_report(context, finished, path)
    echo(f"wrote {path}")


def _show_plan(context, experiments, quick, full) -> None:
    """A line a part, as soon as it is counted; then what was counted."""
    from ...unclip_core.evaluation.planning import CALLS, plan, training

    total, counted = 0.0, set()
    for part in plan(context, experiments, quick, full):
        total += part.seconds
        counted |= part.calls.keys()
        calls = ", ".join(f"{count:,} {name}" for name, count in sorted(part.calls.items()))
        echo(f"{part.experiment.name:18}{part.seconds / 60:8.1f} minutes   {calls}")
    echo(f"{'all':18}{total / 60:8.1f} minutes of processor time at this machine's present speed, and training:")
    needed = {"judge", "reader", *(["decoder"] if any(each.siblings for each in experiments) else [])}
    for name, told in training(context).items():
        if name.split()[0] in needed:
            echo(f"  {name}: {told}")
    if counted:
        echo("counted: " + "; ".join(f"{name}, {CALLS[name]}" for name in CALLS if name in counted))


def _line(done) -> str:
    """One finished experiment."""
    checks = done.result.checks
    verdicts = Counter(check.verdict for check in checks)
    reached = f", {verdicts['reached']} of {len(checks)} targets reached" if checks else ""
    if verdicts["undecided"]:
        reached += f", {verdicts['undecided']} undecided"
    how = "kept from before" if done.cached else f"{done.result.seconds:.0f} s"
    return f"{done.experiment.name}: {how}{reached}"


def _check_stages(entry) -> None:
    """Raises ValueError for a stack that the experiments cannot be run on, before any work."""
    if missing := [stage for stage in ("clip", "prior", "decoder") if stage not in entry.stages]:
        raise ValueError(
            f"reproduce: model {entry.name!r} has no {', '.join(missing)}; the experiments need CLIP, prior and "
            "decoder trained on storybook scenes, such as storybook"
        )
