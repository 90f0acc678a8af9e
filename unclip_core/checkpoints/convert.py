"""Any stack that can be read -> a folder of our own files, which appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from ..config import ClipConfig, PriorConfig, StackConfig
from ..disk import clear_once, part_prefix, sync_folder
from ..presets import KANDINSKY_2_1, KARLO
from ..runtime.device import DTYPES
from .catalog import StackEntry, read_stack
from .diffusers_configs import DIFFUSERS_MASK
from .header import TOKENIZER, CheckpointError
from .kandinsky_original import KandinskyFiles
from .karlo_original import KarloFiles
from .loading import empty_stage
from .native import save_stage
from .states import read_state

KEEP = "keep"
FOLLOW = ("files", "karlo", "diffusers")


@dataclass(frozen=True)
class Converted:
    """One stage of the new folder. bytes: its file's size."""

    stage: str
    number: int
    total: int
    bytes: int


@dataclass(frozen=True)
class _Stage:
    """A stage to write: its config, what reads its state dict into a network, and more metadata."""

    config: object
    read: Callable[..., dict[str, Tensor]]
    metadata: dict[str, str]
    tokenizer: Path | None = None


def convert(
    source: Path | StackEntry,
    target: Path,
    dtype: str = KEEP,
    follow: str = "files",
    original: StackConfig | None = None,
) -> Iterator[Converted]:
    """Write `source` (a diffusers folder, Karlo's or Kandinsky's own files, a native stack, or one that was found) as
    the native stack `target`.

    Yields after each stage; a generator that is not run to its end leaves nothing. dtype: "keep", or what matrices and
    kernels are stored as. follow: whose prior, where Karlo's source and diffusers differ: "files" is what the folder
    says (Karlo's own files: "karlo"), "karlo" clamps x_0 at 10, hides tokens fully and pads captions with 0,
    "diffusers" clamps at 5 and hides by -10000. original: the sizes of original files, by default the published ones.
    Raises ValueError for an unknown choice, one that is not for this model, or a target that exists, CheckpointError
    for a source that cannot be read.
    """
    if dtype != KEEP and dtype not in DTYPES:
        raise ValueError(f"convert: dtype {dtype!r} is unknown; choose one of {KEEP}, {', '.join(DTYPES)}")
    if follow not in FOLLOW:
        raise ValueError(f"convert: follow {follow!r} is unknown; choose one of {', '.join(FOLLOW)}")
    if target.exists():
        raise ValueError(f"convert: {target} exists; choose another name, or remove it first")
    stages = _open(source, original)
    if follow != "files" and getattr(stages.get("decoder"), "config", KARLO.decoder).autoencoder is not None:
        raise ValueError(f"convert: follow {follow!r} is about Karlo's prior, and this is another model; leave it out")
    wanted = DTYPES.get(dtype)
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_once(target.parent)
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=part_prefix(), suffix=".part"))
    try:
        for number, (name, stage) in enumerate(stages.items(), 1):
            path = part / f"{name}.safetensors"
            config = _followed(stage.config, follow)
            state = stage.read(empty_stage(name, config), dtype=wanted)
            save_stage(path, state, name, config, stage.metadata, dtype=wanted)
            if stage.tokenizer is not None:
                shutil.copyfile(stage.tokenizer, path.with_suffix(TOKENIZER))
            del state  # before the next stage's is read
            yield Converted(name, number, len(stages), path.stat().st_size)
        os.chmod(part, 0o755)  # mkdtemp's 0700 would hide the folder from other users
        os.rename(part, target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _open(source: Path | StackEntry, original: StackConfig | None) -> dict[str, _Stage]:
    """The source's stages, checked as far as it goes without reading weights."""
    if isinstance(source, Path) and not source.is_dir():
        raise CheckpointError(f"{source}: not a folder; give the folder that holds the model's files")
    if entry := source if isinstance(source, StackEntry) else read_stack(source):
        if entry.problems:
            raise CheckpointError("; ".join(entry.problems))
        return {
            name: _Stage(
                found.config,
                partial(read_state, found),
                {key: value for key, value in found.metadata.items() if key in ("modelspec.license", "recipe")},
                found.tokenizer,
            )
            for name, found in entry.stages.items()
        }
    for layout, sizes in ((KandinskyFiles, KANDINSKY_2_1), (KarloFiles, KARLO)):
        files = layout(source, original or sizes)
        if files.stages:
            return {name: _original_stage(files, name, config) for name, config in files.stages.items()}
    raise CheckpointError(
        f"{source}: neither a diffusers folder (model_index.json), nor Karlo's or Kandinsky's own files, nor a native "
        "stack"
    )


def _original_stage(files: KandinskyFiles | KarloFiles, name: str, config: object) -> _Stage:
    licence = {} if name == "clip" else {"modelspec.license": files.licence}
    return _Stage(config, partial(files.read_state, name), licence, files.tokenizer if name == "decoder" else None)


def _followed(config: object, follow: str) -> object:
    if isinstance(config, ClipConfig) and follow == "karlo":
        return replace(config, padding=KARLO.clip.padding)
    if not isinstance(config, PriorConfig) or follow == "files":
        return config
    mask, clamp = (None, 10.0) if follow == "karlo" else (DIFFUSERS_MASK, 5.0)
    return replace(config, mask_value=mask, schedule=replace(config.schedule, x0_clamp=clamp))
