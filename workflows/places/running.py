"""From a graph and its rows to files on disk: what `unclip run` and the Python function `run` share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..document.graph import Problem
from ..engine.node_packs import known_classes
from ..engine.outcome import Event
from ..engine.run_host import RunHost
from ..engine.session import Session
from ..rows.batch import Runner, Summary, run_rows
from ..rows.jobs import Jobs
from ..rows.prepared import Prepared
from ..rows.reporters import Reporter
from ..rows.results import Results, RowResult

MAX_GRID = 10_000  # cells of a contact sheet
_KEPT_OUTPUTS = 32  # of earlier rows: what a sweep comes back to, without memory growing with the rows


@dataclass(frozen=True)
class Options:
    """Where and how to run."""

    output: Path = Path("out")
    input: Path = Path("input")
    resume: bool = False
    grid: bool = False
    server: str | None = None  # a running ComfyUI instead of this process
    ray: str | None = None  # a Ray cluster's address; "local" starts one
    workers: int | None = None  # of Ray; None: one per GPU, else one per four cores
    cache: Path | None = None  # folder of encodings and inversions kept on disk
    cache_bytes: int = 2 << 30
    nodes: tuple[Path, ...] = ()  # node packs to load
    bars: bool = False  # a bar for each stage on stderr


def check_options(options: Options, jobs: Jobs) -> list[Problem]:
    """What is wrong with the options themselves."""
    problems = [folder_problem(options.output)]
    if not jobs.many and (options.resume or options.grid):
        name = "--resume" if options.resume else "--grid"
        problems.append(Problem("invalid_option", f"{name} needs rows; add --sweep, --table or -s NAME=@FILE"))
    if options.grid and len(jobs) > MAX_GRID:
        problems.append(
            Problem("invalid_option", f"--grid: {len(jobs)} pictures are more than {MAX_GRID}; leave it out")
        )
    if options.server and options.ray:
        problems.append(Problem("invalid_option", "--server and --ray are two places to run; give one of them"))
    if options.server and options.nodes:
        problems.append(Problem("invalid_option", "--nodes is not for --server, which has its own nodes; leave it out"))
    return [problem for problem in problems if problem]


def folder_problem(folder: Path) -> Problem | None:
    """Why pictures cannot be written into `folder`, which need not exist yet, or None."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        return Problem("invalid_output", f"output folder {folder}: {existing} is a file; choose another with -o")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Problem("invalid_output", f"output folder {folder}: {existing} is not writable; choose another with -o")
    return None


def run_prepared(
    prepared: Prepared,
    options: Options,
    reporter: Reporter,
    keep: Callable[[RowResult], None] | None = None,
    session: Session | None = None,
) -> Summary:
    """Run every row. `keep` hears each result, those that --resume found included.

    A single run raises what went wrong; of many rows, the summary counts the failed. Raises WorkflowError when the
    folder's results are another job's, DiskError when the output folder takes no more.
    """
    results = Results(options.output, prepared.job) if prepared.jobs.many else None
    finished: dict[int, RowResult] = {}
    if results is not None and options.resume:
        results.check_resumable()
        finished = results.finished()
    reporter.begin(prepared, len(prepared.jobs) - len(finished), len(finished))
    first_pictures: dict[int, Path] = {}

    def ended(result: RowResult) -> None:
        if options.grid and (picture := _first_picture(result, options.output)):
            first_pictures[result.row] = picture
        if keep:
            keep(result)

    for result in finished.values():
        ended(result)
    runner, close = make_runner(prepared, options, reporter, session)
    summary = None
    try:

        def heard(result: RowResult) -> None:
            reporter.result(result)
            ended(result)

        summary = run_rows(prepared, runner, options.output, results, heard, finished)
        if options.grid and first_pictures:
            reporter.made(_draw_grid(prepared.jobs, first_pictures, options.output))
    finally:
        reporter.end(summary)
        close()
    if not prepared.jobs.many and runner.failure is not None:
        raise runner.failure
    return summary


def classes_for(options: Options) -> dict[str, type]:
    """The node classes of the place where the graph runs. Raises WorkflowError when it cannot be reached."""
    if not options.server:
        return known_classes(options.nodes)
    from .server_client import server_classes

    return server_classes(options.server, options.input)


def make_runner(
    prepared: Prepared, options: Options, reporter: Reporter, session: Session | None = None
) -> tuple[Runner, Callable[[], None]]:
    """The runner that the options ask for, and what to call when it is no longer needed."""
    if options.server:
        from .server_client import ServerRunner

        server = ServerRunner(prepared, options, reporter.event)
        return server, server.close
    if options.ray:
        from .ray_pool import RayRunner

        packs = tuple(path.absolute() for path in options.nodes)
        pool = RayRunner(prepared, options, reporter.event, partial(known_classes, packs), reporter.warning)
        return pool, pool.close
    from .local_runner import LocalRunner

    own = session or new_session(prepared, options, reporter.warning)
    close = own.host.close if session is None else (lambda: None)
    return LocalRunner(prepared, own, reporter.event), close


def new_session(
    prepared: Prepared,
    options: Options,
    warned: Callable[[str], None] | None = None,
    keep_results: bool = False,
) -> Session:
    """A Session for this process, with a RunHost. Loads torch. `keep_results`: even of a single run, for the next."""
    from ...unclip_core.pages import keep_pages

    keep_pages()
    host = RunHost(options.output, options.input, options.bars, warned)
    limit = _KEPT_OUTPUTS if prepared.jobs.many or keep_results else 0
    if options.cache is None:
        return Session(host, prepared.classes, cache_limit=limit)
    from ..engine.disk_cache import DiskCache

    kept = DiskCache(options.cache, options.cache_bytes, prepared.classes, limit)
    return Session(host, prepared.classes, cache=kept)


def ignore_event(row: int, event: Event) -> None:
    """A listener for those who do not listen."""


def _first_picture(result: RowResult, output: Path) -> Path | None:
    endings = (".png", ".webp", ".jpg", ".jpeg")
    return next((output / path for path in result.outputs if path.lower().endswith(endings)), None)


def _draw_grid(jobs: Jobs, pictures: dict[int, Path], output: Path) -> Path:
    from ...nodes.files import publish, temporary_beside
    from ..rows.contact_sheet import draw, layout

    sheet = draw(layout(jobs), pictures)
    with temporary_beside(output, "grid") as temporary:
        sheet.save(temporary, format="PNG")
        return output / f"grid_{publish(temporary, output, 'grid', 1):05}_.png"
