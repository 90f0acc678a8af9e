"""Options that several subcommands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def device_of(name: str) -> Any:
    """The torch.device of --device, which `auto` chooses. Raises ValueError for one that is not here."""
    import torch

    from ...unclip_core.runtime.device import pick_device

    if name == "auto":
        return pick_device()
    try:
        return torch.empty(0, device=torch.device(name)).device
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ValueError(f"--device {name}: PyTorch does not find it here; choose auto, cpu, cuda or mps") from None
