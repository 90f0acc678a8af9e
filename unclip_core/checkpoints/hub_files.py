"""Downloads what `hub.plan_pull` chose: resumed to the byte, checked against the hub's hashes, installed whole."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .hub import CARDS, HubError, PullPlan, RemoteFile, explained, file_url, headers, quiet_bars

if TYPE_CHECKING:
    from .convert import Converted

STAGING = ".unclip-pull"  # in a model folder: downloads that are not complete yet
_CHUNK = 1 << 22
_MARGIN = 64 << 20  # bytes to leave free
_SHRINK = {"fp32": 1.0, "bf16": 0.5, "fp16": 0.5}  # published weights are float32 unless they are a variant

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
    """Download and install; the stack's folder. It appears when it is complete, and not before.

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
    if target.exists():
        if dtype is None and all(_complete(target / file.path, file) for file in plan.files):
            return target
        raise ValueError(
            f"{target}: there is something of that name already; remove it, or name another folder with --to"
        )
    work = root / STAGING / f"{plan.name}-{plan.commit[:12]}"
    with explained(plan.repo, plan.revision):
        work.mkdir(parents=True, exist_ok=True)
    places = {file: (work / f"{file.path}.part", work / file.path) for file in plan.files}
    check_space(plan, work, places, dtype)
    _download(plan, places, report)
    with explained(plan.repo, plan.revision):
        if dtype is None:
            os.replace(work, target)
        else:
            _install_converted(plan, work, target, dtype, on_stage or (lambda stage: None))
        if not any((root / STAGING).iterdir()):
            (root / STAGING).rmdir()
    return target


# Where a file's first bytes wait, and where it lies when complete.
Places = dict[RemoteFile, tuple[Path, Path]]


def check_space(plan: PullPlan, work: Path, places: Places, dtype: str | None = None) -> None:
    """Raise HubError unless the disk under `work` takes what is still to come, conversion included."""
    have = sum(path.stat().st_size for both in places.values() for path in both if path.is_file())
    needed = max(0, plan.size - have) + int(plan.size * _SHRINK[dtype] if dtype else 0) + _MARGIN
    free = shutil.disk_usage(work).free
    if free < needed:
        raise HubError(
            f"{plan.repo}: needs {needed / 1e9:.1f} GB on the disk of {work}, which has {free / 1e9:.1f} GB free; "
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
    from huggingface_hub import constants, hf_hub_download

    blobs = Path(constants.HF_HUB_CACHE) / f"models--{plan.repo.replace('/', '--')}" / "blobs"
    with explained(plan.repo, plan.revision):
        blobs.mkdir(parents=True, exist_ok=True)
    snapshot = blobs.parent / "snapshots" / plan.commit
    if not all(_complete(snapshot / file.path, file) for file in plan.files):
        places = {file: (blobs / f"{file.digest}.incomplete", blobs / file.digest) for file in plan.files}
        check_space(plan, blobs, places)
        _download(plan, places, report)
    with explained(plan.repo, plan.revision), quiet_bars():
        for file in plan.files:
            path = hf_hub_download(plan.repo, file.path, revision=plan.revision)
    return Path(path.removesuffix(file.path))


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
        http_get(url, _Watched(output, tick), resume_size=output.tell(), headers=headers(), expected_size=file.size)
    if file.digest and digest_of(part, len(file.digest)) != file.digest:
        part.unlink()
        raise HubError(f"{plan.repo}: {file.path} arrived damaged (its hash differs); run the same command again")


class _Watched:
    """A file that tells its position after each write."""

    def __init__(self, file, tick: Callable[[int], None]) -> None:
        self._file, self._tick = file, tick

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        self._tick(self._file.tell())
        return written

    def __getattr__(self, name: str):
        return getattr(self._file, name)


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
