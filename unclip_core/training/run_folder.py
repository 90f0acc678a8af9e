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
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .locks import lock

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
        """Inside, no other process trains here. Raises ValueError if one does. A kill frees the folder."""
        with (self.path / "lock").open("a+", encoding="utf-8") as file:
            try:
                lock(file)
            except OSError:
                file.seek(0)
                owner = file.read().strip() or "another process"
                raise ValueError(
                    f"--run {self.path}: {owner} is training there; wait for it, stop it, or use another --run"
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield

    def load(self, device: str = "cpu") -> dict[str, Any] | None:
        """The newest checkpoint that is whole, None if there is none. A damaged one is named in a warning.

        Raises ValueError where there are checkpoints but none is whole.
        """
        damaged = []
        for path in (self.checkpoint, self.previous):
            if not path.exists():
                continue
            try:
                found = torch.load(path, map_location=device, weights_only=True)
            except Exception as error:  # cut off, or no such file at all: zip, pickle and storage have their own errors
                damaged.append(path.name)
                log.warning("%s cannot be read (%s)", path, " ".join(str(error).split())[:200])
                continue
            if damaged:
                log.warning("going on from %s, step %d", path, found["step"])
            return found
        if damaged:
            raise ValueError(
                f"--run {self.path}: {' and '.join(damaged)} cannot be read; remove the folder, or use another --run"
            )
        return None

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint; the one before it stays as the previous. Whatever happens, a whole one is left.

        Raises OSError naming the folder where the disk is full.
        """
        partial = self.checkpoint.with_suffix(f".{os.getpid()}.partial")
        try:
            try:
                with partial.open("wb") as file:
                    torch.save(dict(state), file)
                    file.flush()
                    os.fsync(file.fileno())
            except (OSError, RuntimeError) as error:
                raise self._no_room(error, state["step"]) from None
            if self.checkpoint.exists():
                os.replace(self.checkpoint, self.previous)
            os.replace(partial, self.checkpoint)
        finally:
            partial.unlink(missing_ok=True)

    def _no_room(self, error: Exception, step: int) -> OSError:
        kept = next((path.name for path in (self.checkpoint, self.previous) if path.exists()), "nothing")
        number = getattr(error, "errno", None) or errno.EIO
        said = (
            getattr(error, "strerror", None) or "the disk is full, or takes no more of it"
        )  # torch says "unexpected pos"
        return OSError(
            number,
            f"{self.path}: the checkpoint of step {step} could not be written ({said}); {kept} is kept: make room "
            "and start the same command again",
        )

    def write(self, path: Path, content: Mapping[str, Any]) -> None:
        """JSON, whole or not at all."""
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        os.replace(partial, path)

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
                partial = self.metrics.with_suffix(f".{os.getpid()}")
                partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
                os.replace(partial, self.metrics)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):  # the last line of a killed run
        return float("inf")
