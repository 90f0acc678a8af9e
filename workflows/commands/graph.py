"""`unclip graph`: a saved graph, drawn."""

from __future__ import annotations

from pathlib import Path

import click

from ..document.conversion import to_api
from ..document.drawing import as_mermaid, as_text
from ..document.graph import Problem, WorkflowError
from ..document.reading import load_workflow
from ..engine.node_packs import known_classes
from ..terminal import echo, echo_lines
from ._options import nodes_option


@click.command(short_help="Draw a graph as text or Mermaid.")
@click.argument("file")
@nodes_option
@click.option("--mermaid", is_flag=True, help="A Mermaid flowchart, which GitHub draws inside ```mermaid.")
def command(file: str, nodes: tuple[Path, ...], mermaid: bool) -> None:
    """Draw what FILE runs: muted and bypassed nodes left out, subgraphs unpacked, wires from top to bottom."""
    classes = known_classes(nodes)
    prompt, problems = to_api(load_workflow(file), classes)
    for problem in problems:
        echo(f"warning: {problem}", err=True)
    if not prompt:
        raise WorkflowError([Problem("invalid_prompt", f"{file}: has no node that runs; nothing to draw")])
    try:
        echo_lines((as_mermaid if mermaid else as_text)(prompt, classes))
    except ValueError as error:
        raise WorkflowError([Problem("invalid_prompt", f"{file}: {error}")]) from None
