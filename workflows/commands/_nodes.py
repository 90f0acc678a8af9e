"""The option --nodes, which several subcommands share."""

from __future__ import annotations

from pathlib import Path

import click

nodes_option = click.option(
    "--nodes",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Also know the nodes of this V1 pack, a folder or a .py file; runs its code. Repeatable.",
)
