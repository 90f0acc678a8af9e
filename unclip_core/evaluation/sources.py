"""Which code numbers come from, by hashes of its sources."""

from __future__ import annotations

import hashlib
import inspect
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

CORE = __package__.rpartition(".")[0]
# What decides on a sample besides weights and settings.
SAMPLING = ("clip", "diffusion", "embeddings.py", "models", "stages")
# What decides on a number that is found in samples, and on the pictures of a report.
JUDGING = tuple(
    f"{CORE}.{place}" for place in ("evaluation.", "storybook.", "pictures.", "training.losses", "training.passing")
)


@cache
def sampling() -> str:
    """A short hash of the networks' and samplers' code."""
    core, found = Path(__file__).parents[1], hashlib.sha256()
    for place in SAMPLING:
        for path in sorted((core / place).rglob("*.py")) if place[-3:] != ".py" else [core / place]:
            found.update(path.relative_to(core).as_posix().encode())
            found.update(path.read_text(encoding="utf-8").encode())
    return found.hexdigest()[:12]


def judging(module: ModuleType) -> str:
    """A short hash of a module's code and of whatever it uses of JUDGING, near or far: of an experiment, a measure."""
    found, left = {}, [module]
    while left:
        each = left.pop()
        if each.__name__ in found:
            continue
        found[each.__name__] = inspect.getsource(each)
        for value in vars(each).values():
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(name, str) and name.startswith(JUDGING) and name in sys.modules:
                left.append(sys.modules[name])
    return hashlib.sha256("".join(found[name] for name in sorted(found)).encode()).hexdigest()[:12]


def measuring(module: ModuleType) -> str:
    """A short hash of all code that a number rests on whose samples are not kept: what makes them and what judges them.
    It is a part of the number's key, for such numbers are made anew in minutes."""
    return f"{sampling()}-{judging(module)}"
