"""Downloads what `hub.plan_pull` chose: resumed to the byte, checked against the hub's hashes, installed whole."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..disk import sync_file
from .hub import CARDS, Bounded, HubError, PullPlan, RemoteFile, explained, file_url, headers, quiet_bars

if TYPE_CHECKING:
    from .convert import Converted

STAGING = ".unclip-pull"  # in a model folder: downloads that are not complete yet
_CHUNK = 1 << 22
_MARGIN = 64 << 20  # bytes to leave free
SHRINK = {"fp32": 1.0, "bf16": 0.5, "fp16": 0.5}  # published weights are float32 unless they are a variant

# on_progress(what, done bytes, all bytes)
Progress = Callable[[str, int, int], None]
OnStage = Callable[["Converted"], None]


def pull(
    plan: PullPlan,
    root: Path | None,
    dtype: str | None = None,
    on_progress: Progress | None = None,
    on_stage: OnStage | None = None,
) -> Path:
    """Download and install; the stack's folder. It appears when it is complete, and not before; of one that is there,
    what is missing or cut is fetched.

    root: a model folder, or None for the Hugging Face cache. dtype: store our own files, converted, instead of the
    repository's ("fp32", "bf16", "fp16"; needs a root). on_stage: called after each converted stage. Interrupted, the
    same call goes on where it stopped. Raises ValueError if `root` has something else of that name, HubError for all
    that can fail on the way.
    """
    report = on_progress or (lambda what, done, total: None)
    if root is None:
        if dtype is not None:
            raise ValueError("pull: converted files have no place in the Hugging Face cache; name a folder with --to")
        return _into_cache(plan, report)
    target = root / plan.name
    there = target.exists()
    if there:
        complete = [_complete(target / file.path, file) for file in plan.files]
        if dtype is None and all(complete):
            return target
        own = [found for found, file in zip(complete, plan.files, strict=True) if file.path not in CARDS]
        if dtype is not None or not any(own):
            raise ValueError(
                f"{target}: there is something of that name already; remove it, or name another folder with --to"
            )
    work = _work(plan, root)
    with explained(plan.repo, plan.revision):
        work.mkdir(parents=True, exist_ok=True)
    places = _places(plan, root)
    check_space(plan.repo, _needed(plan, places, dtype), work)
    _download(plan, places, report)
    with explained(plan.repo, plan.revision):
        if there:
            shutil.rmtree(work)
        elif dtype is None:
            os.replace(work, target)
        else:
            _install_converted(plan, work, target, dtype, on_stage or (lambda stage: None))
        if not any((root / STAGING).iterdir()):
            (root / STAGING).rmdir()
    return target


# Where a file's first bytes wait, and where it lies when complete.
Places = dict[RemoteFile, tuple[Path, Path]]


def _work(plan: PullPlan, root: Path) -> Path:
    """Where a model waits until it is complete."""
    return root / STAGING / f"{plan.name}-{plan.commit[:12]}"


def _places(plan: PullPlan, root: Path | None) -> Places:
    if root is None:
        blobs = _blobs(plan)
        return {file: (blobs / f"{file.digest}.incomplete", blobs / file.digest) for file in plan.files}
    work = _work(plan, root)
    final = root / plan.name if (root / plan.name).exists() else work
    return {file: (work / f"{file.path}.part", final / file.path) for file in plan.files}


def _needed(plan: PullPlan, places: Places, dtype: str | None) -> int:
    """Bytes that are still to come, conversion included."""
    have = sum(path.stat().st_size for both in places.values() for path in both if path.is_file())
    return max(0, plan.size - have) + int(plan.size * SHRINK[dtype] if dtype else 0)


def needed_space(plans: Iterable[PullPlan], root: Path | None, dtype: str | None = None) -> int:
    """Bytes that all `plans` still need under `root` (None: the Hugging Face cache), conversion included."""
    return sum(_needed(plan, _places(plan, root), dtype) for plan in plans)


def check_space(what: str, needed: int, folder: Path) -> None:
    """Raise HubError unless the disk of `folder`, which need not exist yet, takes `needed` bytes and some more."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free, needed = shutil.disk_usage(existing).free, needed + _MARGIN
    if free < needed:
        raise HubError(
            f"{what}: needs {needed / 1e9:.1f} GB on the disk of {folder}, which has {free / 1e9:.1f} GB free; "
            "free some space, or name a folder on another disk with --to"
        )


def _install_converted(plan: PullPlan, work: Path, target: Path, dtype: str, on_stage: OnStage) -> None:
    from .convert import convert

    room = work.with_name(f"{work.name}-{dtype}")
    shutil.rmtree(room, ignore_errors=True)  # of a run that was killed
    made = room / plan.name
    for stage in convert(work, made, dtype):
        on_stage(stage)
    for file in plan.files:
        if file.path in CARDS:
            shutil.copyfile(work / file.path, made / file.path)
    os.replace(made, target)
    shutil.rmtree(room)
    shutil.rmtree(work)


def _into_cache(plan: PullPlan, report: Progress) -> Path:
    """Into the cache's blobs under the hub's own hashes; huggingface_hub then makes the snapshot of what lies there."""
    from huggingface_hub import hf_hub_download

    blobs = _blobs(plan)
    with explained(plan.repo, plan.revision):
        blobs.mkdir(parents=True, exist_ok=True)
    snapshot = blobs.parent / "snapshots" / plan.commit
    if not all(_complete(snapshot / file.path, file) for file in plan.files):
        places = _places(plan, None)
        check_space(plan.repo, _needed(plan, places, None), blobs)
        _download(plan, places, report)
    with explained(plan.repo, plan.revision), quiet_bars():
        for file in plan.files:
            path = hf_hub_download(plan.repo, file.path, revision=plan.revision)
    return Path(path.removesuffix(file.path))


def _blobs(plan: PullPlan) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{plan.repo.replace('/', '--')}" / "blobs"


def _complete(path: Path, file: RemoteFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size


def _download(plan: PullPlan, places: Places, report: Progress) -> None:
    """Every file to its place."""
    before = 0
    for file in sorted(plan.files, key=lambda file: file.size):  # what can be refused, is refused early
        part, final = places[file]

        def tick(position: int, file=file, before=before) -> None:
            report(file.path, before + position, plan.size)

        if not _complete(final, file):
            with explained(plan.repo, plan.revision):
                _fetch(plan, file, part, tick)
                sync_file(part)  # of what lies there, only the size is looked at again
                final.parent.mkdir(parents=True, exist_ok=True)
                os.replace(part, final)
        before += file.size
        tick(0, before=before)


def _fetch(plan: PullPlan, file: RemoteFile, part: Path, tick: Callable[[int], None]) -> None:
    """Bring `part` to its full length and check it. huggingface_hub goes on after a cut by itself a few times."""
    from huggingface_hub.file_download import http_get

    part.parent.mkdir(parents=True, exist_ok=True)
    if part.exists() and part.stat().st_size > file.size:
        part.unlink()
    with open(part, "ab") as output, quiet_bars():
        url = file_url(plan.repo, plan.commit, file)
        bounded = Bounded(output, file, plan.repo, tick)
        http_get(url, bounded, resume_size=output.tell(), headers=headers(), expected_size=file.size)
    if file.digest and digest_of(part, len(file.digest)) != file.digest:
        part.unlink()
        raise HubError(f"{plan.repo}: {file.path} arrived damaged (its hash differs); run the same command again")


def digest_of(path: Path, length: int) -> str:
    """The hash the hub knows a file by: SHA-256 (64 digits), or git's SHA-1 of a small file (40)."""
    if length == 64:
        found = hashlib.sha256()
    else:
        found = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()
