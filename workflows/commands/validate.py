"""`unclip validate`: would these graphs run?"""

from __future__ import annotations

from pathlib import Path

import click

from ...unclip_core.texts import json_text
from ..checks.validation import to_checked_prompt
from ..document.graph import WorkflowError
from ..document.reading import load_workflow
from ..engine.node_packs import known_classes
from ..terminal import echo
from ._options import input_option, nodes_option


@click.command(short_help="Check graphs without running them.")
@click.argument("files", nargs=-1, required=True)
@input_option
@nodes_option
@click.option("--json", "as_json", is_flag=True, help="One JSON line per file: file, ok, problems.")
def command(files: tuple[str, ...], input_folder: Path, nodes: tuple[Path, ...], as_json: bool) -> int:
    """List everything that keeps FILES from running; exit code 1 when there is anything, 2 when a file cannot be read
    as a graph. Loads no model. A graph that comes with the pack goes by its name."""
    from ...nodes.host import LocalHost, use_host

    classes, code = known_classes(nodes), 0
    with use_host(LocalHost(input=input_folder)):
        for file in files:
            try:
                problems = to_checked_prompt(load_workflow(file), classes)[1]
                code = max(code, 1 if problems else 0)
            except WorkflowError as error:
                problems, code = error.problems, 2
            if as_json:
                found = [vars(problem) for problem in problems]
                echo(json_text({"file": str(file), "ok": not problems, "problems": found}))
                continue
            for problem in problems:
                named = str(problem).startswith(f"{Path(file)}: ")  # what is wrong with the file itself says so
                echo(str(problem) if named else f"{file}: {problem}", err=True)
            if not problems:
                echo(f"{file}: ok")
    return code
