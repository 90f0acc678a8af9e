"""A published model of several repositories: which of its parts are here, and what is to be downloaded for the others.

`plan_parts` looks at the model folders and asks the hub, `pull_parts` downloads what is missing, part by part.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import catalog
from .diffusers_folder import read_licence
from .header import StageFile
from .hub import CARDS, HubError, PullPlan, licence_title, plan_pull
from .hub_files import SHRINK, STAGING, OnStage, Progress, check_space, needed_space, pull
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
        elif found := find_part(part, folders, model.name):
            folder, stages = found
            size = sum(path.stat().st_size for stage in stages for path in stage.files)
            licence = licence_title(read_licence(folder) or part.licence)
            planned.append(PartPlan(part, licence, size, folder=folder))
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


def find_part(part: Part, folders: Sequence[Path], whole: str = "") -> tuple[Path, list[StageFile]] | None:
    """The installed folder that has all stages of a part, under the part's name, and these; None if there is none.

    whole: the name of the stack that the part belongs to, whose folder may have all its stages.
    """
    for name in dict.fromkeys(filter(None, (part.folder, part.also_in, whole))):
        for folder, found in catalog.read_named(name, folders):
            if set(part.stages) <= set(found):
                return folder, [found[stage] for stage in part.stages]
    return None


def pull_parts(
    model: Published,
    planned: Sequence[PartPlan],
    root: Path | None,
    dtype: str | None = None,
    on_part: Callable[[PartPlan], tuple[Progress | None, OnStage | None]] = lambda part: (None, None),
) -> dict[str, Path]:
    """Download what is missing; the parts' folders by the parts' names. root, dtype: see `hub_files.pull`; several
    parts become one folder of our own files, called as the model.

    on_part: called before each part that is downloaded, gives what hears of its progress. Interrupted, the same call
    goes on where it stopped. Raises as `hub_files.pull`, with the part's name and the command.
    """
    missing = [entry for entry in planned if entry.plan]
    joint = dtype is not None and len(planned) > 1 and bool(missing)
    room = catalog.hub_cache() if root is None else root
    where = root / STAGING / model.name if joint else root
    needed = needed_space([entry.plan for entry in missing], where, None if joint else dtype)
    if joint:
        needed += int(sum(entry.size for entry in planned) * SHRINK[dtype])
        if (root / model.name).exists():
            raise ValueError(f"{root / model.name}: exists already; remove it, or name another folder with --to")
    check_space(model.name, needed, room)
    found = {entry.part.name: entry.folder for entry in planned if entry.folder}
    tell = None
    for entry in missing:
        on_progress, tell = on_part(entry)
        with _naming(model, entry.part):
            found[entry.part.name] = pull(entry.plan, where, None if joint else dtype, on_progress, tell)
    if joint:
        _convert_together(model, found, where, root / model.name, dtype, tell)
        found = dict.fromkeys(found, root / model.name)
    return found


def _convert_together(
    model: Published,
    parts: Mapping[str, Path],
    work: Path,
    target: Path,
    dtype: str,
    on_stage: OnStage | None,
) -> None:
    """The parts' folders, side by side in `work` or linked into it, as one folder of our own files."""
    from .convert import convert

    for part in model.parts:
        link = work / part.folder
        if not link.exists():
            link.symlink_to(parts[part.name].absolute(), target_is_directory=True)
    made = work / STAGING / target.name
    shutil.rmtree(made, ignore_errors=True)  # of a run that was killed
    for stage in convert(catalog.stacks_in(work)[model.name], made, dtype):
        if on_stage is not None:
            on_stage(stage)
    for name, folder in parts.items():
        for card in CARDS:
            if (folder / card).is_file():
                shutil.copyfile(folder / card, made / f"{name}-{card}")
    os.replace(made, target)
    shutil.rmtree(work)
    if not any(work.parent.iterdir()):
        work.parent.rmdir()


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
