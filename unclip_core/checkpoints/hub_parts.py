"""A published model of several repositories: which of its parts are here, and what is to be downloaded for the others.

`plan_parts` looks at the model folders and asks the hub, `pull_parts` downloads what is missing, part by part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import catalog
from .diffusers_folder import read_licence
from .hub import HubError, PullPlan, licence_title, plan_pull
from .hub_files import OnStage, Progress, check_space, needed_space, pull
from .published import Part, Published


@dataclass(frozen=True)
class PartPlan:
    """A part with the folder where it lies already, or with what is to be downloaded. size: bytes."""

    part: Part
    licence: str | None
    size: int
    folder: Path | None = None
    plan: PullPlan | None = None


def plan_parts(
    model: Published,
    folders: Iterable[Path],
    dtype: str | None = None,
    sources: Mapping[str, str] | None = None,
) -> list[PartPlan]:
    """What `model` needs, part by part. folders: the model folders in which an installed part counts.

    sources: other repositories by the part's name, for a copy of one that is gone. Raises ValueError for an unknown
    part and for a repository that is gone or is something else, HubError if the hub cannot be asked; both name the
    part and the command.
    """
    folders, sources = list(folders), dict(sources or {})
    if unknown := [name for name in sources if name not in [part.name for part in model.parts]]:
        names = ", ".join(part.name for part in model.parts)
        raise ValueError(f"pull: {model.name} has no part {unknown[0]!r}; its parts are {names}")
    planned = []
    for part in model.parts:
        if repository := sources.get(part.name):
            part = replace(part, repository=repository)
        elif found := find_part(part, folders):
            size = sum(path.stat().st_size for path in _files(found))
            licence = licence_title(read_licence(found.folder) or part.licence)
            planned.append(PartPlan(part, licence, size, folder=found.folder))
            continue
        with _naming(model, part, f"; `{model.command} --from {part.name}=OWNER/NAME` takes it from a copy"):
            plan = plan_pull(
                part.repository,
                dtype=dtype,
                networks=part.networks,
                name=part.folder,
                licence=part.licence,
            )
        planned.append(PartPlan(part, plan.licence, plan.size, plan=plan))
    return planned


def find_part(part: Part, folders: Iterable[Path]) -> catalog.StackEntry | None:
    """The installed folder that has a part's stages, whole, under the part's name; None if there is none."""
    for name in filter(None, (part.folder, part.also_in)):
        for entry in catalog.read_named(name, folders):
            if not entry.problems and set(part.stages) <= set(entry.stages):
                return entry
    return None


def _files(entry: catalog.StackEntry) -> set[Path]:
    return {path for stage in entry.stages.values() for path in stage.all_files}


def pull_parts(
    model: Published,
    planned: Sequence[PartPlan],
    root: Path | None,
    dtype: str | None = None,
    on_part: Callable[[PartPlan], tuple[Progress | None, OnStage | None]] = lambda part: (None, None),
) -> dict[str, Path]:
    """Download what is missing; the parts' folders by the parts' names. root, dtype: see `hub_files.pull`.

    on_part: called before each part that is downloaded, gives what hears of its progress. Interrupted, the same call
    goes on where it stopped. Raises as `hub_files.pull`, with the part's name and the command.
    """
    missing = [part.plan for part in planned if part.plan]
    check_space(model.name, needed_space(missing, root, dtype), catalog.hub_cache() if root is None else root)
    found = {}
    for entry in planned:
        if entry.plan is None:
            found[entry.part.name] = entry.folder
            continue
        on_progress, on_stage = on_part(entry)
        with _naming(model, entry.part):
            found[entry.part.name] = pull(entry.plan, root, dtype, on_progress, on_stage)
    return found


@contextlib.contextmanager
def _naming(model: Published, part: Part, advice: str = "") -> Iterator[None]:
    """Errors name the part. advice: what helps where a value is wrong, such as a repository that is gone."""
    named = f"{model.name}, part {part.name}"
    try:
        yield
    except HubError as error:
        raise HubError(f"{named}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{named}: {error}{advice}") from None
