"""Tensors of a TorchScript archive (OpenAI's ViT-L-14.pt), without running it.

`torch.jit.load` compiles the program inside. The archive's pickle alone names every attribute, and is read as any other
(pickles.py), with stand-ins for the program's classes.
"""

from __future__ import annotations

from pathlib import Path

from .header import CheckpointError, guarded
from .pickles import read_pickle
from .stand_ins import MAX_NAME, Listed, Made
from .tensors import Source, pickled_sources


def open_torchscript(path: Path) -> dict[str, Source]:
    """Every tensor of the archive by its dotted name. Raises CheckpointError for a damaged or foreign archive."""
    with guarded(path):
        pickled = read_pickle(path)
        return pickled_sources(path, pickled, _walk(path, pickled.value))


def _walk(path: Path, top: object) -> dict[str, Listed]:
    """The tensors of an object and of those in it, by dotted name; an object that comes again is taken once."""
    found: dict[str, Listed] = {}
    seen = set()
    waiting = [("", top)]
    while waiting:
        prefix, item = waiting.pop()
        if not isinstance(item, Made) or id(item) in seen:
            continue
        seen.add(id(item))
        for name, value in item.state.items():
            full = f"{prefix}{name}"
            if len(full) > MAX_NAME:
                raise CheckpointError(f"{path}: a name of more than {MAX_NAME} characters in it; do not use this file")
            if isinstance(value, Listed):
                found[full] = value
            else:
                waiting.append((f"{full}.", value))
    return found
