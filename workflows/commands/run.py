"""`unclip run`: a saved graph, headless."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..graph import Problem, Prompt, Workflow, WorkflowError, load_workflow
from ..overrides import apply
from ..preflight import check
from ..schema import node_classes
from ..ui_to_api import convert

if TYPE_CHECKING:
    from ...nodes.host import LocalHost

EXAMPLES = """\b
Examples:
  unclip run workflows/text_to_image.json -s prompt="a red star on a night sky"
  unclip run workflows/text_to_image.json -s prompt="一颗红色的星星" -s seed=7 -o pictures/
  unclip run graph.json -s decoder.steps=50 -s 3.dtype=fp32
\b
NAME is a node's title (sets its first widget), its id, title.input, id.input,
or an input's name, which is then set on every node that has it:
seed=7 sets all seeds. `unclip show FILE` lists what a graph has.
"""


@click.command(epilog=EXAMPLES, short_help="Run a saved graph and write its pictures.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-s", "--set", "assignments", metavar="NAME=VALUE", multiple=True, help="Set a value; repeatable.")
@click.option(
    "-o", "--output", default="out", show_default=True, type=click.Path(path_type=Path), help="Picture folder."
)
@click.option(
    "-i",
    "--input",
    "input_folder",
    default="input",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder that Load Image reads from.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bars, and only the paths of the pictures.")
def command(file: Path, assignments: tuple[str, ...], output: Path, input_folder: Path, quiet: bool) -> None:
    """Run the graph in FILE, as the editor saves or exports it, and write its pictures into the output folder.

    Everything that is wrong with the graph is listed before any work starts (exit code 2). The values that were used
    are kept inside each PNG: drop it on the editor to get the graph back.
    """
    from ...nodes.host import LocalHost, use_host

    host = LocalHost(output, input_folder, quiet)
    try:
        with use_host(host):
            workflow, prompt, lines = prepare(file, list(assignments), output)
        if not quiet:
            for line in lines:
                click.echo(line)
        _execute(workflow, prompt, host)
    finally:
        host.close()


def prepare(file: Path, assignments: list[str], output: Path) -> tuple[Workflow, Prompt, list[str]]:
    """Load, set, convert and check. Returns the workflow with its values set, the prompt to run, and a line for each
    value set. Raises WorkflowError with every problem at once."""
    classes = node_classes()
    workflow = load_workflow(file)
    lines, problems = apply(workflow, assignments, classes)
    prompt, found = to_prompt(workflow, classes)
    problems += found
    if problem := folder_problem(output):
        problems.append(problem)
    if problems:
        raise WorkflowError(problems)
    return workflow, prompt, lines


def to_prompt(workflow: Workflow, classes: dict[str, type]) -> tuple[Prompt, list[Problem]]:
    """The API prompt of a workflow of either form, its values brought to their types, and every problem of it."""
    prompt, problems = convert(workflow.data, classes) if workflow.is_ui else (workflow.data, [])
    prompt, found = check(prompt, classes)
    return prompt, problems + found


def folder_problem(folder: Path) -> Problem | None:
    """Why pictures cannot be written into `folder`, which need not exist yet, or None."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        return Problem("invalid_output", f"output folder {folder}: {existing} is a file; choose another with -o")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Problem("invalid_output", f"output folder {folder}: {existing} is not writable; choose another with -o")
    return None


def _execute(workflow: Workflow, prompt: Prompt, host: LocalHost) -> None:
    from ...unclip_core.allocator import keep_pages
    from ..executor import execute

    keep_pages()

    def announce(node_id: str, ui: dict[str, list]) -> None:
        for picture in ui.get("images", []):
            if picture["type"] == "output":
                click.echo(f"saved {host.folder('output') / picture['subfolder'] / picture['filename']}")

    execute(prompt, node_classes(), host, {"workflow": workflow.data} if workflow.is_ui else None, announce)
