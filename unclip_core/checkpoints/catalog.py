"""What is installed: stacks by name, found on the search path, without torch.

A stack is a folder with one safetensors file per stage, or a diffusers folder. It goes by its folder's name; a
Hugging Face cache entry (models--owner--name) by the repository's last part. Searched in this order: the embedded
stack, the host's model folders, those of $UNCLIP_MODELS (separated as in $PATH), and the Hugging Face cache.

Kandinsky is published in parts, a prior and decoders for it. They are put together wherever they lie: in folders of
their own, or side by side in one folder. A decoder in a folder of its own goes by that folder's name less "-decoder",
the only one of a folder by the folder's. ECLIPSE's priors are joined to the stack that they were made for.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..config import STAGES
from . import diffusers_folder, eclipse_folder, kandinsky_folder, stable_unclip_folder, stable_unclip_single
from .header import CheckpointError, StageFile, guarded, read_stage, remembered
from .published import PUBLISHED

ENVIRONMENT = "UNCLIP_MODELS"
EMBEDDED = Path(__file__).resolve().parent.parent / "weights"
# Fitted tables lie beside the stages, or in a model folder under the stack's name; they are no stages.
PCA, ANALYTIC = "pca", "analytic"
TABLES = tuple(f".{kind}.safetensors" for kind in (PCA, ANALYTIC))
TABLE_COMMANDS = {PCA: "unclip fit-pca --clip", ANALYTIC: "unclip fit-analytic --prior"}
LORAS = "loras"  # a folder among the stacks' that holds LoRA files
KARLO_NAME = "karlo-v1-alpha"

Folders = Iterable[str | os.PathLike]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StackEntry:
    """An installed stack. stages: by stage name, those it has. problems: one line for each file that cannot be used."""

    name: str
    folder: Path
    stages: dict[str, StageFile] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def layout(self) -> str:
        """ "native", or the foreign layout's name."""
        return next((found.layout for found in self.stages.values()), "native")

    @property
    def experimental(self) -> bool:
        """Whether nobody has tried a published file of one of its networks here: ECLIPSE's priors."""
        return "prior" in self.stages and self.stages["prior"].config.one_pass


def search_path(folders: Folders = ()) -> list[Path]:
    """The folders that hold stacks, in order, without repetitions. folders: the host's."""
    named = (EMBEDDED, *folders, *environment_folders(), hub_cache())
    return list(dict.fromkeys(Path(folder).expanduser() for folder in named))


def environment_folders() -> list[Path]:
    """The folders that $UNCLIP_MODELS names."""
    return [Path(part) for part in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if part]


def writable_folder(folders: Folders = ()) -> Path | None:
    """The first model folder in which files can be made, though it need not exist yet: of the host's `folders`, then of
    $UNCLIP_MODELS. None if there is none."""
    for folder in (Path(folder).expanduser() for folder in (*folders, *environment_folders())):
        existing = next((path for path in (folder, *folder.absolute().parents) if path.exists()), None)
        if existing is not None and existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
            return folder
    return None


def hub_cache() -> Path:
    """Where huggingface_hub keeps what it downloads."""
    for variable, inside in (("HF_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")):
        if value := os.environ.get(variable):
            return Path(value) / inside
    return Path("~/.cache/huggingface/hub")


def list_stacks(folders: Folders = ()) -> dict[str, StackEntry]:
    """All stacks by name, broken ones included. Of equal names the first on the search path wins, with a warning."""
    return _collect(candidate for root in search_path(folders) for candidate in _candidates(root))


def with_clip_towers(entries: Iterable[StackEntry], clip_id: str, towers: Collection[str]) -> StackEntry | None:
    """The first whole stack of `entries` whose CLIP is of this id and has these towers, or None."""
    for entry in entries:
        found = None if entry.problems else entry.stages.get("clip")
        if found is not None and found.config.clip_id == clip_id and set(towers) <= set(found.config.towers):
            return entry
    return None


def stacks_in(folder: Path) -> dict[str, StackEntry]:
    """The stacks that the folders in `folder` make, by name, wherever the search path leads."""
    return _collect(_candidates(folder))


def _collect(candidates: Iterable[tuple[str, Path]]) -> dict[str, StackEntry]:
    """The stacks that these (name, folder) make, by name."""
    stacks: dict[str, StackEntry] = {}
    parts: list[kandinsky_folder.Part] = []
    priors: list[eclipse_folder.LonePrior] = []
    for name, folder in candidates:
        try:
            with guarded(folder):
                if lone := eclipse_folder.read_prior(folder, name):
                    priors.append(lone)
                    continue
                if found := read_parts(folder, name):
                    parts += found
                    continue
                entry = _read_whole(folder, name)
        except CheckpointError as error:  # whatever is in one folder, the others are listed
            entry = StackEntry(name, folder, problems=(str(error),))
        # A cache is full of other people's models: one that is no unCLIP at all is no broken one.
        if entry is not None and (name == folder.name or entry.stages):
            _add(stacks, entry)
    for joined in kandinsky_folder.join(parts):
        _add(stacks, StackEntry(**vars(joined)))
    stacks = {name: _complete(entry, stacks.values()) for name, entry in stacks.items()}
    hosts = list(stacks.values())
    for prior in priors:
        _add(stacks, StackEntry(**vars(eclipse_folder.join(prior, hosts))))
    return stacks


def _complete(entry: StackEntry, stacks: Iterable[StackEntry]) -> StackEntry:
    """The entry with what a Stable unCLIP borrows of the others, of Karlo first."""
    lenders = sorted(stacks, key=lambda other: other.name != KARLO_NAME)
    return replace(entry, stages=stable_unclip_folder.borrow(entry.stages, (other.stages for other in lenders)))


def _add(stacks: dict[str, StackEntry], entry: StackEntry) -> None:
    """Under its name, if that is free."""
    if entry.name in stacks:
        _warn_shadowed(entry.name, stacks[entry.name].folder, entry.folder)
    else:
        stacks[entry.name] = entry


def find(name: str, folders: Folders = ()) -> StackEntry:
    """The stack called `name`. Raises ValueError if there is none (listing those there are and where it looked) or if
    one of its files cannot be used.
    """
    folders = list(folders)
    stacks = list_stacks(folders)
    if name not in stacks:
        known = ", ".join(stacks) or "none"
        looked = ", ".join(str(folder) for folder in search_path(folders))
        pull = f"get it with `{PUBLISHED[name].command}`, or " if name in PUBLISHED else ""
        raise ValueError(
            f"Load unCLIP: no model {name!r}; {pull}put a folder {name!r} with one .safetensors per stage, or a "
            f"diffusers folder, into a model folder, or set ${ENVIRONMENT}; installed: {known}. Looked in {looked}"
        )
    if problems := stacks[name].problems:
        message = f"Load unCLIP: model {name!r} is broken: {'; '.join(problems)}"
        if name in PUBLISHED and PUBLISHED[name].command not in message:
            message += f"; `{PUBLISHED[name].command}` gets what is missing or cut"
        raise ValueError(message)
    return stacks[name]


def read_named(name: str, folders: Iterable[Path]) -> Iterator[tuple[Path, dict[str, StageFile]]]:
    """Every folder called `name` in `folders`, in order, with the stages that it holds itself: those of a stack, or of
    a part of one."""
    for root in folders:
        for found, folder in _candidates(Path(root).expanduser()):
            if found == name:
                stages: dict[str, StageFile] = {}
                with contextlib.suppress(CheckpointError), guarded(folder):
                    for part in read_parts(folder, name):
                        stages |= part.stages
                    if (lone := eclipse_folder.read_prior(folder, name)) and lone.stage is not None:
                        stages["prior"] = lone.stage
                    if not stages and (entry := _read_whole(folder, name)):
                        stages = entry.stages
                yield folder, stages


def read_stack(folder: Path, name: str | None = None) -> StackEntry | None:
    """The stack in `folder`, or None if it holds none. name: what it goes by, if not by the folder's name.

    Of a part of a Kandinsky, a prior of ECLIPSE, or a Stable unCLIP without a prior it is the stack that the part makes
    with those beside it.
    """
    if prior := eclipse_folder.read_prior(folder, name or folder.name):
        beside = _collect((name, other) for name, other in _candidates(_root(folder)) if other != folder)
        return StackEntry(**vars(eclipse_folder.join(prior, beside.values())))
    if parts := read_parts(folder, name or folder.name):
        beside = [
            part for name, other in _candidates(_root(folder)) if other != folder for part in read_parts(other, name)
        ]
        joined = kandinsky_folder.join_of([*parts, *beside], folder)
        return StackEntry(**vars(joined) | ({"name": name} if name else {}))
    entry = _read_whole(folder, name)
    if entry is None or not stable_unclip_folder.borrows(entry.stages):
        return entry
    beside = (_read_whole(other, beside) for beside, other in _candidates(_root(folder)) if other != folder)
    return _complete(entry, [other for other in beside if other is not None])


def read_parts(folder: Path, name: str) -> list[kandinsky_folder.Part]:
    """The parts of a Kandinsky in `folder`, which goes by `name`: it is one, or holds some side by side."""
    if part := kandinsky_folder.read_part(folder, name):
        return [part]
    if (folder / diffusers_folder.INDEX).is_file() or any(folder.glob("*.safetensors")):
        return []
    inner = sorted(path for path in folder.iterdir() if path.is_dir())
    parts = [part for path in inner if (part := kandinsky_folder.read_part(path, path.name))]
    return kandinsky_folder.named_after(name, parts)


def _root(folder: Path) -> Path:
    """The folder that holds a stack's folder; of a revision in huggingface_hub's cache, the cache."""
    return folder.parents[2] if _is_repository(folder.parent.parent) else folder.parent


def _read_whole(folder: Path, name: str | None = None) -> StackEntry | None:
    name = name or folder.name
    if foreign := stable_unclip_folder.read_folder(folder) or diffusers_folder.read_folder(folder):
        return StackEntry(name, folder, *foreign)
    stages: dict[str, StageFile] = {}
    problems = []
    files = sorted(path for path in folder.glob("*.safetensors") if not path.name.endswith(TABLES))
    # A stage's own name first: copies under other names are the ones to complain about.
    for path in sorted(files, key=lambda path: path.stem not in STAGES):
        try:
            found = read_stage(path)
        except CheckpointError as error:
            if path.stem in STAGES:
                problems.append(str(error))
            continue
        if found.tokenizer is not None and not found.tokenizer.is_file():
            problems.append(f"{found.tokenizer}: missing, and {path.name} reads captions by it; copy it there again")
        elif found.stage in stages:
            problems.append(f"{path}: a second {found.stage} beside {stages[found.stage].path.name}; remove one")
        else:
            stages[found.stage] = found
    if not stages and not problems:
        single = stable_unclip_single.read_folder(folder)
        return StackEntry(name, folder, *single) if single else None
    return StackEntry(name, folder, {stage: stages[stage] for stage in STAGES if stage in stages}, tuple(problems))


def table_name(stack: str, kind: str) -> str:
    """The name of a fitted table's file. kind: PCA or ANALYTIC."""
    return f"{stack}.{kind}.safetensors"


def find_table(entry: StackEntry, kind: str, folders: Folders = ()) -> Path | None:
    """The table in use: in a model folder (folders: the host's), else in the stack's own folder, whatever it is called
    there, because folders are renamed; None if nowhere."""
    places = [folder / table_name(entry.name, kind) for folder in search_path(folders)]
    own = sorted(entry.folder.glob(f"*.{kind}.safetensors"))
    return next((path for path in (*places, *own) if path.is_file()), None)


def _candidates(root: Path) -> list[tuple[str, Path]]:
    """(name, folder) of everything under `root` that may be a stack, sorted."""
    try:
        # Downloads wait in hidden ones.
        folders = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    except OSError:  # a search folder need not exist
        return []
    found = []
    for folder in folders:
        with contextlib.suppress(OSError):  # a cache that is somebody else's
            if folder.is_dir() and folder.name != LORAS:
                found.append(_snapshot(folder) if _is_repository(folder) else (folder.name, folder))
    return [candidate for candidate in found if candidate is not None]


def _is_repository(folder: Path) -> bool:
    return folder.name.startswith("models--") and (folder / "snapshots").is_dir()


def _snapshot(folder: Path) -> tuple[str, Path] | None:
    """The revision that `main` points to, else the newest, of a repository in huggingface_hub's cache."""
    name, snapshots = folder.name.rpartition("--")[2], folder / "snapshots"
    with contextlib.suppress(CheckpointError):  # fetched by revision: no branch is on record
        main = snapshots / _revision(folder / "refs" / "main")
        if main != snapshots and main.is_dir():
            return name, main
    revisions = sorted((path for path in snapshots.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    return (name, revisions[-1]) if revisions else None


@remembered
def _revision(branch: Path) -> str:
    """What a branch of a repository in the cache points to."""
    return branch.read_text(encoding="ascii").strip()


_warned: set[tuple[str, Path]] = set()


def _warn_shadowed(name: str, used: Path, hidden: Path) -> None:
    """Once per folder: the catalog is read again for every listing of the nodes."""
    if (name, hidden) not in _warned:
        _warned.add((name, hidden))
        log.warning("two models are called %r: using %s, not %s; rename one folder", name, used, hidden)
