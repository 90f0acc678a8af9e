"""A stage's network: empty, and with the weights of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ..clip.networks import empty_network
from ..config import ClipConfig
from ..models.build import build_network
from ..models.empty import without_contents
from .header import StageFile, guarded, read_stage
from .states import read_state


def empty_stage(stage: str, config: object) -> nn.Module:
    """The network that a stage's file holds, CLIP's too, on the meta device."""
    if isinstance(config, ClipConfig):
        return empty_network(config)
    with without_contents():
        return build_network(stage, config)


def load_network(
    source: StageFile | str | Path,
    dtype: torch.dtype | None = None,
    layout: torch.memory_format = torch.contiguous_format,
    part: str = "",
    check: Callable[[], None] | None = None,
    keep_halves: bool = False,
) -> nn.Module:
    """The network of a catalog's stage, or of a native file. part: only this submodule of it. check: see `load_stack`.
    keep_halves: see `assemble`.

    What is stored as `dtype` (None: whatever it is) and `layout` stays in the mapped file, read when first touched;
    other matrices and kernels are brought to them one by one, so that there is never a second copy of all. Vectors keep
    the file's dtype. Raises CheckpointError if a file is not complete or does not fit the stage's config.
    """
    found = source if isinstance(source, StageFile) else read_stage(source)
    with guarded(found.path):  # no memory, no initialisation: the file's tensors take the places
        network = empty_stage(found.stage, found.config)
    state = read_state(found, network, dtype=dtype, layout=layout, part=part, check=check, keep_halves=keep_halves)
    network = network.get_submodule(part)
    network.load_state_dict(state, strict=True, assign=True)
    return network
