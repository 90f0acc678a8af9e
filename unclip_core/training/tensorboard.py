"""The log's numbers for TensorBoard, which is installed by those who use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Board:
    """A writer of event files below `folder`/tensorboard. Raises ValueError where TensorBoard is not installed."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("--tensorboard needs TensorBoard; `pip install 'unclip[train]'`") from None
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def write(self, line: dict[str, Any]) -> None:
        """A line of metrics.jsonl."""
        for name, value in line.items():
            if name != "step":
                self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()
