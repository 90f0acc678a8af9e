"""Which frozen CLIP a run listens to, and how it is opened."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch

from ..checkpoints.catalog import EMBEDDED, find, list_stacks, with_clip_towers
from ..checkpoints.header import StageFile, read_stage
from ..checkpoints.states import read_state
from ..clip.model import Clip
from ..config import ClipConfig
from ..runtime.device import pick_dtype
from ..stack import LARGE_CLIP
from .plan import TRAINABLE, Plan


def open_clip_of(where: str | None, plan: Plan, folders: Iterable[Path], device: torch.device | str) -> Clip:
    """The frozen CLIP of a run: that of `where` (a file, or an installed model's name), else that beside the initial
    weights, else the public one that the preset names, else the embedded model's.

    Raises ValueError for another one than trained weights, or the ids of a preset, speak.
    """
    wanted = plan.config("clip")
    if where is not None:
        found = clip_file(where, folders)
    elif plan.initial is not None and plan.initial.clip is not None:
        found = plan.initial.clip
        if missing := needed_towers(plan) - set(found.config.towers):
            return _whole_clip(found.config, missing, folders, device)
    elif wanted.architecture:
        return Clip(wanted, device=device)
    else:
        found = read_stage(EMBEDDED / "storybook" / "clip.safetensors")
    speaks = plan.initial.config.clip_id if plan.adopts and plan.initial.stage != "clip" else None
    preset = TRAINABLE[plan.preset]
    if speaks is None and plan.stack.name == preset.name:
        speaks = wanted.clip_id
    if speaks is not None and found.config.clip_id != speaks:
        label = f"--init {plan.initial.label}" if plan.adopts else f"preset {plan.preset}"
        raise ValueError(
            f"{label} speaks the CLIP {speaks}, but {f'--clip {where}' if where else found.path} is "
            f"{found.config.clip_id}; give that CLIP, or --name for a stack of its own that is trained anew"
        )
    return load_clip(found, device)


def needed_towers(plan: Plan) -> set[str]:
    """What a run needs of the CLIP that lies beside its initial weights: a decoder may read captions by itself."""
    config = plan.initial.config
    return {"image"} if getattr(config, "text", "clip") != "clip" else {"text", "image"}


def _whole_clip(config: ClipConfig, missing: set[str], folders: Iterable[Path], device: torch.device | str) -> Clip:
    """The CLIP of this id with the missing towers: an installed model's, else the public one, which is downloaded.

    Raises ValueError where there is none (Karlo's own folder has no image tower, its variations' has).
    """
    entry = with_clip_towers(list_stacks(folders).values(), config.clip_id, missing)
    if entry is not None:
        return load_clip(entry.stages["clip"], device)
    public = next((each.clip for each in TRAINABLE.values() if each.clip.clip_id == config.clip_id), None)
    if public is None or not public.pretrained:
        raise ValueError(
            f"the CLIP {config.clip_id} has no {' and no '.join(sorted(missing))} tower, without which no data can be "
            "read; install a model that speaks it and has one, such as karlo-v1-alpha-image-variations for Karlo's "
            "(`unclip pull`), or give --clip"
        )
    return Clip(public, device=device)


def clip_file(where: str, folders: Iterable[Path] = ()) -> StageFile:
    """The CLIP of a file, or of an installed model. Raises ValueError for what has none."""
    path = Path(where).expanduser()
    if path.is_file():
        found = read_stage(path)
        if found.stage != "clip":
            raise ValueError(f"--clip {where} holds a {found.stage}; give a CLIP, as `unclip train clip` makes")
        return found
    entry = find(where, folders)
    if "clip" not in entry.stages:
        raise ValueError(f"--clip {where} has no clip; it has {', '.join(entry.stages)}")
    return entry.stages["clip"]


def load_clip(found: StageFile, device: torch.device | str) -> Clip:
    """A handle over a stage's file, as when pictures are made: a large one with its towers apart, on an accelerator in
    half precision."""
    large, device = found.parameters >= LARGE_CLIP, torch.device(device)
    dtype = pick_dtype("auto", device) if large and device.type != "cpu" else torch.float32
    read = partial(read_state, found, dtype=dtype)
    return Clip(found.config, read, device=device, dtype=dtype, apart=large)
