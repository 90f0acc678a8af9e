"""Which files of a folder hold one network's weights: single files or shards, safetensors or pickles, any variant."""

from __future__ import annotations

from pathlib import Path

from .header import CheckpointError, WeightSet, count_numbers, read_json
from .pickles import count_pickled

PREFERENCE = ("fp32", "bf16", "fp16")  # the widest first, as any other can be made from it
_SUFFIXES = (".safetensors", ".bin")


def find_weights(folder: Path) -> tuple[WeightSet, ...]:
    """Every complete set of weights in `folder`, the best first: safetensors before pickles, then the widest dtype.

    Sets are told apart by indexes and contents; what files are called does not matter. Raises CheckpointError if there
    is none, or for a file that is cut, damaged or missing from an index.
    """
    groups = [_shards(path) for path in sorted(folder.glob("*.json")) if ".index" in path.name]
    indexed = {path for group in groups for path in group}
    files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path not in indexed)
    groups += [(path,) for path in files]
    if not groups:
        raise CheckpointError(f"{folder}: no weights (.safetensors or .bin) in it; download it again")
    sets = [_measure(group) for group in groups]
    order = {dtype: rank for rank, dtype in enumerate(PREFERENCE)}
    return tuple(
        sorted(sets, key=lambda s: (s.files[0].suffix != ".safetensors", order.get(s.dtype, len(order)), s.files))
    )


def _measure(files: tuple[Path, ...]) -> WeightSet:
    if files[0].suffix == ".safetensors":
        return count_numbers(files)
    parts = [count_pickled(path) for path in files]
    return WeightSet(files, parts[0].dtype, sum(part.parameters for part in parts))


def _shards(index: Path) -> tuple[Path, ...]:
    """The files an index lists."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index}: not an index of shards; download it again")
    # A name from a file must not lead out of the folder.
    files = tuple(index.parent / Path(name).name for name in sorted(set(names.values())))
    if not files:
        raise CheckpointError(f"{index}: lists no files; download it again")
    for path in files:
        if not path.is_file():
            raise CheckpointError(f"{path}: missing, though {index.name} lists it; download it again")
    return files
