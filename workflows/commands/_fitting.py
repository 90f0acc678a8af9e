"""What fit-pca and fit-analytic share: data, where the table goes, and the progress bar."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any


def open_pictures(data: str, cache: Path, pictures: int, seed: int) -> Any:
    """Training data: rendered scenes, a folder, or .tar shards."""
    import os

    from ...unclip_core.training.data import StorybookData
    from ...unclip_core.training.files import open_files

    if data == "storybook":
        return StorybookData(cache / "storybook", pictures, seed, workers=os.cpu_count() or 1)
    return open_files(data)


def table_path(output: Path | None, stack: str, kind: str) -> Path:
    """Where to write: `output`, else a model folder that can be written. Raises ValueError if there is none."""
    from ...nodes.host import current_host
    from ...unclip_core.checkpoints.catalog import ENVIRONMENT, table_name, writable_folder

    if output is not None:
        return output.expanduser()
    root = writable_folder(current_host().model_folders())
    if root is None:
        raise ValueError(f"no model folder to write {table_name(stack, kind)} to; set ${ENVIRONMENT} or give --output")
    return root / table_name(stack, kind)


def with_bar(steps: Generator[tuple[int, int], None, Any], label: str, unit: str) -> Any:
    """Run a generator that yields (done, total) under a progress bar, and return its result."""
    from tqdm import tqdm

    with tqdm(desc=label, unit=unit, dynamic_ncols=True) as bar:
        while True:
            try:
                done, total = next(steps)
            except StopIteration as end:
                return end.value
            bar.total = total
            bar.update(done - bar.n)
