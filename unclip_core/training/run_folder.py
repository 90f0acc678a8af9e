"""A run's folder: one run at a time in it, two checkpoints, the log, and the note that it is finished.

checkpoint.pt, checkpoint.previous.pt    everything that the next step needs
metrics.jsonl                            a line for each logged step and each validation
config.json                              the recipe, the network's config, data and CLIP of the run
finished.json                            what the exported file was made of
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.header import CheckpointError, Unreadable
from ..checkpoints.pickles import read_pickle
from ..disk import (
    DiskFull,
    Taken,
    naming_full_disk,
    only_one,
    remove_leftovers,
    size_text,
    sync_file,
    whole_file,
    write_text,
)
from ..runtime.estimates import is_out_of_memory
from ..texts import one_line, shown

_OF_DAMAGE = (None, errno.EINVAL)  # errors of the system that a file's own numbers lead to: places before its beginning
_PARTS = {"step": int, "network": dict, "ema": dict, "optimiser": dict}  # of a checkpoint

log = logging.getLogger(__name__)


class RunFolder:
    """path: made if it is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.checkpoint, self.previous = path / "checkpoint.pt", path / "checkpoint.previous.pt"
        self.metrics, self.config = path / "metrics.jsonl", path / "config.json"
        self._finished = path / "finished.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Inside, no other process trains here, and what a killed one left half-written is gone. Raises ValueError if
        one does. A kill frees the folder. What a full disk leads to inside is a DiskFull."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(only_one(self.path / "lock"))
            except Taken as owner:
                raise ValueError(
                    f"--run {self.path}: {owner} is training there; wait for it, stop it, or use another --run"
                ) from None
            remove_leftovers(self.path)
            stack.enter_context(naming_full_disk(self.metrics))
            yield

    def load(self, option: str = "--run") -> dict[str, Any] | None:
        """The newest checkpoint that is whole, None if there is none. A damaged one is named in a warning. option: what
        named the folder, for messages.

        Raises ValueError where there are checkpoints but none is whole; Unreadable and MemoryError where one could not
        be read to its end, which says nothing about it: the older one would throw steps away.
        """
        damaged = []
        for path in (self.checkpoint, self.previous):
            if not path.exists():
                continue
            try:
                found = _read_checkpoint(path)
            except Unreadable:
                raise
            except ValueError as error:
                damaged.append(str(error))
                log.warning("%s: %s", self.path, error)
                continue
            if damaged:
                log.warning("going on from %s, step %d", path, found["step"])
            return found
        if damaged:
            raise ValueError(f"{option} {self.path}: {'; '.join(damaged)}; remove the folder, or name another")
        return None

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint; the one before it stays as the previous. Whatever happens, a whole one is left.

        Raises DiskFull naming the file, the disk, the sizes and what is kept.
        """
        try:
            with whole_file(self.checkpoint, durable=True, size=_bytes(state)) as temporary:
                with temporary.open("wb") as file:
                    torch.save(dict(state), file)
                if self.checkpoint.exists():
                    sync_file(temporary)  # before the one that it replaces steps back
                    os.replace(self.checkpoint, self.previous)
        except DiskFull as error:
            kept = next((path.name for path in (self.checkpoint, self.previous) if path.exists()), "nothing")
            raise DiskFull(error.errno, f"step {state['step']}: {error} ({kept} is kept)") from None

    def write(self, path: Path, content: Mapping[str, Any]) -> None:
        """JSON, whole or not at all."""
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False), durable=True)

    def finish(self, made_of: Mapping[str, Any]) -> None:
        """Note what the exported file was made of."""
        self.write(self._finished, made_of)

    def finished(self) -> dict[str, Any] | None:
        """What the exported file was made of; None where the run has not come to its end."""
        with contextlib.suppress(OSError, json.JSONDecodeError):
            return json.loads(self._finished.read_text(encoding="utf-8"))
        return None

    def forget_after(self, step: int) -> None:
        """Drop the log's lines of steps after `step`, which are done again."""
        if self.metrics.exists():
            lines = self.metrics.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            if len(kept) < len(lines):
                write_text(self.metrics, "".join(f"{line}\n" for line in kept))


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Raises ValueError with the file's name and what is wrong with it, Unreadable and MemoryError with its path."""
    try:
        with zipfile.ZipFile(path) as archive:  # its checksums, which torch.load does not look at
            if bad := archive.testzip():
                raise ValueError(f"damaged in its record {shown(bad)}")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and storage have their own, and advice that does not help here
        if is_out_of_memory(error):
            size = size_text(path.stat().st_size)
            raise MemoryError(f"{path}: no memory to read it ({size}); close programs, and begin again") from None
        if isinstance(error, OSError) and error.errno not in _OF_DAMAGE:
            reason = error.strerror or error
            raise Unreadable(f"{path}: cannot be read ({reason}); check its permissions and its disk") from None
        raise ValueError(f"{path.name} cannot be read ({_reason(path, error)})") from None
    for name, kind in _PARTS.items():
        if not isinstance(found, dict) or not isinstance(found.get(name), kind):
            raise ValueError(f"{path.name} is no checkpoint of a training (it has no {name})")
    return found


def _reason(path: Path, error: Exception) -> str:
    """What is wrong with a checkpoint, by our own reader of such files; else what torch's says."""
    try:
        read_pickle(path)
    except CheckpointError as found:
        return str(found).removeprefix(f"{path}: ").rpartition("; ")[0]
    return one_line(str(error), 200)


def _bytes(state: Any) -> int:
    """What the tensors of a state take, optimiser and average included."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    inner = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(map(_bytes, inner))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):  # the last line of a killed run
        return float("inf")
