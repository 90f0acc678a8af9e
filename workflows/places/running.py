"""From a graph and its rows to files on disk: what `unclip run` and the Python function `run` share.

Chooses the place: a ComfyUI server, a Ray cluster, or this process. Only the chosen one is imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ...nodes.host import LocalHost, use_host
from ..document.graph import WorkflowError
from ..document.reading import Workflow, load_workflow
from ..engine.node_packs import known_classes
from ..engine.session import Session
from ..rows.batch import Runner, Summary, run_rows
from ..rows.jobs import Jobs
from ..rows.prepared import Prepared, prepare
from ..rows.reporters import Reporter
from ..rows.results import Results, RowResult
from .options import Options, check_options


def node_classes_for(options: Options) -> dict[str, type]:
    """The node classes of the place where the graph runs. Raises WorkflowError when it cannot be reached."""
    if not options.server:
        return known_classes(options.nodes)
    from .comfyui_server import server_classes

    return server_classes(options.server, options.input)


def prepare_run(workflow: Workflow | str | Path, jobs: Jobs, options: Options, partial: bool = False) -> Prepared:
    """Read the graph if a file is given; set, convert and check everything, the options too. Raises WorkflowError with
    every problem at once."""
    problems = check_options(options, jobs)
    host = LocalHost(options.output, options.input)
    try:
        with use_host(host):  # nodes look into its folders
            workflow = workflow if isinstance(workflow, Workflow) else load_workflow(workflow)
            prepared = prepare(workflow, jobs, node_classes_for(options), partial)
    except WorkflowError as error:
        raise WorkflowError([*error.problems, *problems]) from None
    finally:
        host.close()
    if problems:
        raise WorkflowError(problems)
    return prepared


def run_prepared(
    prepared: Prepared,
    options: Options,
    reporter: Reporter,
    on_result: Callable[[RowResult], None] | None = None,
    session: Session | None = None,
) -> Summary:
    """Run every row. `on_result` gets each result, those that --resume found included.

    A single run raises what went wrong; of many rows, the summary counts the failed. Raises WorkflowError when the
    folder's results are another job's, or another process does the same rows there, DiskError when the output folder
    takes no more.
    """
    if not prepared.jobs.many:
        return _run_rows(prepared, options, reporter, on_result, session, None)
    results = Results(options.output, prepared.job)
    if options.resume:
        results.check_resumable()
    with results.alone():
        return _run_rows(prepared, options, reporter, on_result, session, results)


def _run_rows(
    prepared: Prepared,
    options: Options,
    reporter: Reporter,
    on_result: Callable[[RowResult], None] | None,
    session: Session | None,
    results: Results | None,
) -> Summary:
    finished = results.finished() if results is not None and options.resume else {}
    reporter.begin(prepared, len(prepared.jobs) - len(finished), len(finished))
    first_pictures: dict[int, Path] = {}

    def keep(result: RowResult) -> None:
        if options.grid and (picture := _first_picture(result, options.output)):
            first_pictures[result.row] = picture
        if on_result:
            on_result(result)

    def report(result: RowResult) -> None:
        reporter.result(result)
        keep(result)

    summary = None
    try:
        for result in finished.values():
            keep(result)
        with _runner(prepared, options, reporter, session) as runner:
            summary = run_rows(prepared, runner, options.output, results, report, finished)
        if options.grid and first_pictures:
            reporter.made(_draw_grid(prepared.jobs, first_pictures, options.output))
    finally:
        reporter.end(summary)
    if not prepared.jobs.many and runner.failure is not None:
        raise runner.failure
    return summary


@contextlib.contextmanager
def _runner(prepared: Prepared, options: Options, reporter: Reporter, session: Session | None) -> Iterator[Runner]:
    """The runner of the place that the options ask for, closed at the end. A session that is given stays open."""
    if options.server:
        from .comfyui_server import ServerRunner

        with contextlib.closing(ServerRunner(prepared, options, reporter)) as server:
            yield server
    elif options.ray:
        from .ray_cluster import RayRunner

        with contextlib.closing(RayRunner(prepared, options, reporter)) as cluster:
            yield cluster
    else:
        from .local import LocalRunner, new_session

        own = session or new_session(prepared, options)
        try:
            yield LocalRunner(prepared, own, reporter)
        finally:
            if session is None:
                own.host.close()


def _first_picture(result: RowResult, output: Path) -> Path | None:
    endings = (".png", ".webp", ".jpg", ".jpeg")
    return next((output / path for path in result.outputs if path.lower().endswith(endings)), None)


def _draw_grid(jobs: Jobs, pictures: dict[int, Path], output: Path) -> Path:
    from ...nodes.files import move_to_free_number, temporary_file
    from ..rows.contact_sheet import draw, layout

    sheet = draw(layout(jobs), pictures)
    with temporary_file(output, "grid") as temporary:
        sheet.save(temporary, format="PNG")
        return move_to_free_number(temporary, output, "grid", 1)
