"""Where and how to run, and what can be wrong with that."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..document.graph import Problem
from ..rows.jobs import Jobs

MAX_GRID = 10_000  # cells of a contact sheet


@dataclass(frozen=True)
class Options:
    """Where and how to run."""

    output: Path = Path("out")
    input: Path = Path("input")
    resume: bool = False
    grid: bool = False
    server: str | None = None  # a running ComfyUI instead of this process
    ray: str | None = None  # a Ray cluster's address; "local" starts one
    workers: int | None = None  # of Ray; None: one per GPU, else one per four cores
    cache: Path | None = None  # folder of encodings and inversions kept on disk
    cache_bytes: int = 2 << 30
    nodes: tuple[Path, ...] = ()  # node packs to load
    bars: bool = False  # a bar for each stage on stderr


def check_options(options: Options, jobs: Jobs) -> list[Problem]:
    """What is wrong with the options themselves."""
    problems = [folder_problem(options.output)]
    if not jobs.many and (options.resume or options.grid):
        name = "--resume" if options.resume else "--grid"
        problems.append(Problem("invalid_option", f"{name} needs rows; add --sweep, --table or -s NAME=@FILE"))
    if options.grid and len(jobs) > MAX_GRID:
        problems.append(
            Problem("invalid_option", f"--grid: {len(jobs)} pictures are more than {MAX_GRID}; leave it out")
        )
    if options.server and options.ray:
        problems.append(Problem("invalid_option", "--server and --ray are two places to run; give one of them"))
    if options.server and options.nodes:
        problems.append(Problem("invalid_option", "--nodes is not for --server, which has its own nodes; leave it out"))
    return [problem for problem in problems if problem]


def folder_problem(folder: Path) -> Problem | None:
    """Why pictures cannot be written into `folder`, which need not exist yet, or None."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        return Problem("invalid_output", f"output folder {folder}: {existing} is a file; choose another with -o")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Problem("invalid_output", f"output folder {folder}: {existing} is not writable; choose another with -o")
    return None
