"""The shared core of unCLIP: torch in, torch out.

    stack = unclip_core.load("storybook")
    picture = stack.text_to_image("a red star on a night sky", seed=4)  # (1, 1024, 1024, 3) in 0..1

Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from .stack import Stack

__all__ = ["list_models", "load"]


def load(
    name: str,
    *,
    dtype: str = "auto",
    device: torch.device | str | None = None,
    folders: Sequence[Path] = (),
) -> Stack:
    """The handles of an installed model. Weights are read when a stage is first used.

    name: as `list_models` has it. dtype: "auto", "fp32", "bf16", "fp16", or "int8" on a processor. device: None picks
    the best there is.
    folders: where to look besides the embedded stacks, `$UNCLIP_MODELS` and the Hugging Face cache.
    Raises ValueError for a model that is not installed, with the names that are.
    """
    from .checkpoints.catalog import find
    from .stack import load_stack

    return load_stack(find(name, folders), dtype, device, folders=folders)


def list_models(folders: Sequence[Path] = ()) -> list[str]:
    """The names of the installed models whose files can be used."""
    from .checkpoints.catalog import list_stacks

    return [name for name, entry in list_stacks(folders).items() if not entry.problems]
