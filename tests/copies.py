"""Copies of model folders that take no place on the disk: their weights are the source's under a second name."""

import os
import shutil
from pathlib import Path

WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".th")
_shared = {}  # path of a source's weights -> (size, time) when they were linked


def copy_folder(source, target, **options):
    """`shutil.copytree` for tests that change configs, and add, remove or replace files. To write into weights would be
    to change the source's: `own` comes first. Returns the target."""
    return Path(shutil.copytree(source, target, copy_function=_copy, **options))


def own(path):
    """A file of a copied folder that may be written into: no longer the source's. Returns its path."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    return path


def written_into():
    """The weights of sources that were written into since they were linked, or since this was asked."""
    found = [str(path) for path, stamp in _shared.items() if path.is_file() and _stamp(path) != stamp]
    _shared.clear()
    return found


def _copy(source, target):
    source = Path(source)
    if source.suffix not in WEIGHTS:
        return shutil.copy2(source, target)
    _shared.setdefault(source, _stamp(source))
    os.link(source, target)
    return target


def _stamp(path):
    found = path.stat()
    return found.st_size, found.st_mtime_ns
