"""What train, data, the fits and measurements share: data, where a table goes, and progress bars."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any


def open_pictures(data: str, cache: Path, pictures: int, seed: int) -> Any:
    """Training data: rendered scenes, a folder, or .tar shards."""
    from ...unclip_core.training.sources.opening import open_data

    with progress_bar() as progress:
        return open_data(data, cache, scenes=pictures, seed=seed, progress=progress)


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A function that is told (what is done, how much of it, of how much), and shows it as a bar."""
    from tqdm import tqdm

    open_bars: dict[str, tqdm] = {}  # one at most

    def close() -> None:
        while open_bars:
            open_bars.popitem()[1].close()

    def show(label: str, done: int, total: int) -> None:
        if label not in open_bars:
            close()
            open_bars[label] = tqdm(desc=label, total=total, unit="picture", dynamic_ncols=True)
        open_bars[label].update(done - open_bars[label].n)
        if done >= total:  # what follows has a line of its own
            close()

    try:
        yield show
    finally:
        close()


@contextlib.contextmanager
def one_bar(**look: Any) -> Iterator[tuple[Any, Callable[[str, int, int], None]]]:
    """A tqdm bar that stands for one thing after another, and what moves it: called with what is done, how much of it,
    of how much."""
    from tqdm import tqdm

    with tqdm(dynamic_ncols=True, **look) as bar:

        def move(what: str, done: int, total: int) -> None:
            bar.set_description(what, refresh=False)
            bar.total, bar.n = total, done
            bar.refresh()

        yield bar, move


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
