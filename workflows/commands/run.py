"""`unclip run`: a saved graph, headless."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import click

from ..document.graph import Problem, WorkflowError
from ..places.options import Options
from ..places.running import prepare_run, run_prepared
from ..rows.batch import DiskError
from ..rows.jobs import Jobs, build
from ..rows.prepared import Prepared
from ..rows.reporters import HumanReporter, JsonReporter, QuietReporter, Reporter, say
from ..terminal import echo
from ._options import input_option, nodes_option

EXAMPLES = """\b
Examples:
  unclip run text_to_image -s prompt="a red star on a night sky"
  unclip run text_to_image -s prompt="一颗红色的星星" -s seed=7 -o pictures/
  unclip run graph.json -s prompt=@prompts.txt --sweep seed=0..9 --grid
  unclip run graph.json --table jobs.csv --resume
\b
NAME is a node's title (sets its first widget), its id, title.input, id.input,
or an input's name, which is then set on every node that has it:
seed=7 sets all seeds. `unclip show FILE` lists what a graph has.
\b
Exit codes: 0 all done; 1 a node or a row failed, or the disk; 2 what was given
cannot be used, and nothing was run; 130 Ctrl-C, 143 SIGTERM.
"""
_PATH = click.Path(path_type=Path)


def _options(function):
    """The options in the order that --help lists them."""
    for decorate in reversed(
        (
            click.argument("file"),  # as it was typed: ./text_to_image is no name
            click.option(
                "-s",
                "--set",
                "assignments",
                metavar="NAME=VALUE",
                multiple=True,
                help="Set a value; repeatable. NAME=@FILE: a run per line of FILE.",
            ),
            click.option(
                "--table", type=_PATH, metavar="FILE", help="CSV or JSON table: a run per row, the columns are NAMEs."
            ),
            click.option(
                "--sweep",
                "sweeps",
                metavar="NAME=VALUES",
                multiple=True,
                help="A run per value: 0..9, 0..1..0.25, 1,2,4, @FILE; several sweeps combine.",
            ),
            click.option("--grid", is_flag=True, help="A contact sheet of the runs, grid_00001_.png."),
            click.option("--resume", is_flag=True, help="Skip the rows that results.jsonl has as finished."),
            click.option("-o", "--output", default="out", show_default=True, type=_PATH, help="Picture folder."),
            input_option,
            nodes_option,
            click.option("--partial", is_flag=True, help="Run the outputs that can be made although others cannot."),
            click.option("--dry-run", is_flag=True, help="Check everything and say what would run; load no model."),
            click.option("--server", metavar="URL", help="Run on this ComfyUI server: http://127.0.0.1:8188."),
            click.option(
                "--ray",
                metavar="[ADDRESS]",
                is_flag=False,
                flag_value="local",
                help="Spread the rows over a Ray cluster; without an address, over this machine.",
            ),
            click.option(
                "--workers", type=click.IntRange(1), help="Workers of --ray.  [default: one per GPU or 4 cores]"
            ),
            click.option("--cache", type=_PATH, metavar="DIR", help="Keep encodings and inversions on disk, there."),
            click.option("--cache-size", default="2G", show_default=True, metavar="SIZE", help="Limit of --cache."),
            click.option("--json", "as_json", is_flag=True, help="One JSON line per event on stdout."),
            click.option("-v", "--verbose", is_flag=True, help="Say what was chosen: dtype, threads, memory."),
            click.option("-q", "--quiet", is_flag=True, help="No progress bars, and only the paths of the pictures."),
        )
    ):
        function = decorate(function)
    return function


@click.command(epilog=EXAMPLES, short_help="Run a saved graph and write its pictures.")
@_options
def command(file, assignments, table, sweeps, as_json, quiet, verbose, dry_run, partial, cache_size, **given) -> int:
    """Run the graph in FILE, as the editor saves or exports it, and write its pictures into the output folder. A graph
    that comes with the pack goes by its name: text_to_image.

    Everything that is wrong with the graph is listed before any work starts (exit code 2). The values that were used
    are kept inside each PNG and WebP: drop it on the editor to get the graph back.
    """
    if verbose:
        logging.getLogger("comfyui_unclip").setLevel(logging.INFO)
    try:
        options = Options(
            input=given.pop("input_folder"),
            cache_bytes=parse_size(cache_size),
            **given,
        )
        return _run(
            file, build(assignments, table, sweeps), options, partial, dry_run, _reporter(options, as_json, quiet)
        )
    except WorkflowError as error:
        if as_json:
            for problem in error.problems:
                say("problem", **vars(problem))
            return 2
        raise
    except DiskError as error:
        if as_json:
            say("failure", message=str(error))
            return 1
        raise


def _reporter(options: Options, as_json: bool, quiet: bool) -> Reporter:
    return (JsonReporter if as_json else QuietReporter if quiet else HumanReporter)(options.output)


def _run(file: str, jobs: Jobs, options: Options, partial: bool, dry_run: bool, reporter: Reporter) -> int:
    prepared = prepare_run(file, jobs, options, partial)
    if dry_run:
        _show_plan(prepared, options, isinstance(reporter, JsonReporter))
        return 0
    bars = isinstance(reporter, HumanReporter) and not jobs.many
    summary = run_prepared(prepared, replace(options, bars=bars), reporter)
    return 1 if summary.failed else 0


def parse_size(text: str) -> int:
    """`500M`, `2G` or plain bytes. Raises WorkflowError."""
    units = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    number, unit = text.strip().upper().removesuffix("B"), ""
    if number[-1:] in units:
        number, unit = number[:-1] if number[-1:] else number, number[-1:]
    try:
        size = float(number) * units[unit]
        if not 0 < size < 1 << 60:
            raise ValueError
    except ValueError:
        raise WorkflowError([Problem("invalid_option", f"{text!r} is no size; write 500M or 2G")]) from None
    return int(size)


def _show_plan(prepared: Prepared, options: Options, as_json: bool) -> None:
    from ..rows.planning import plan
    from ..rows.results import FILE, Results, seconds_by_class

    results = Results(options.output, prepared.job)
    if options.resume:
        results.check_resumable()
    finished = set(results.finished()) if options.resume else set()
    found = plan(prepared, finished, seconds_by_class(options.output / FILE))
    if as_json:
        say("plan", job=prepared.job, **vars(found))
        return
    for assigned in prepared.assigned:
        echo(str(assigned))
    for problem in prepared.skipped:
        echo(f"not run: {problem}")
    done = f", {found.finished} of them finished before" if found.finished else ""
    echo(f"{found.rows} row{'s' * (found.rows != 1)}{done} -> {options.output}")
    width = max(map(len, found.nodes), default=0)
    for name, count in found.nodes.items():
        saved = found.nodes_without_reuse[name] - count
        echo(f"  {name.ljust(width)}  {count:>6} x" + (f"  ({saved} saved by reuse)" if saved else ""))
    echo(f"time: {found.time_text}")
    echo("nothing was run")
