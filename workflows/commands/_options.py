"""Options that several subcommands share."""

from __future__ import annotations

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)

nodes_option = click.option(
    "--nodes",
    multiple=True,
    type=_PATH,
    metavar="PATH",
    help="Also know the nodes of this V1 pack, a folder or a .py file; runs its code. Repeatable.",
)
input_option = click.option(
    "-i",
    "--input",
    "input_folder",
    default="input",
    show_default=True,
    type=_PATH,
    help="Folder that Load Image reads from.",
)
cache_option = click.option(
    "--cache", type=_PATH, default=Path("data"), show_default=True, help="Folder for drawn scenes."
)
