"""From a stack on disk to the handles of its stages."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from .checkpoints.catalog import StackEntry
from .checkpoints.header import StageFile, read_stage
from .checkpoints.states import read_state
from .checkpoints.tables import Folders, read_basis, read_noise_powers
from .config import STAGES
from .device import Manager, Placed, memory_format, pick_device, pick_dtype
from .models.ar_prior import ARPriorNetwork
from .models.decoder import DecoderNetwork
from .models.prior import PriorNetwork
from .models.upsampler import stored_upsampler
from .types import TextEncoding

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "prior": PriorNetwork,
    "decoder": DecoderNetwork,
    "upsampler_256": stored_upsampler,
    "upsampler_1024": stored_upsampler,
    "ar_prior": ARPriorNetwork,
}


class MissingStage:
    """Stands for a stage that a stack lacks: using it raises ValueError with what the stack has."""

    def __init__(self, stage: str, entry: StackEntry) -> None:
        fix = "load a model that has one"
        if entry.layout == "native":
            fix += f", or put a {stage}.safetensors into its folder"
        elif stage == "prior":
            fix += " (karlo-v1-alpha does); variations of a picture need none, CLIP Image Encode gives the embedding"
        self._message = (
            f"Load unCLIP: model {entry.name!r} has no {stage} stage (it has {', '.join(entry.stages)}); {fix}"
        )

    def __getattr__(self, name: str):
        # Copying, pickling and inspecting a handle is no use of it.
        if name.startswith("_"):
            raise AttributeError(name)
        raise ValueError(self._message)


def build_network(stage: str, config: object) -> nn.Module:
    """A stage's network with fresh weights. Raises ValueError for a stage that is none of NETWORKS."""
    if stage not in NETWORKS:
        raise ValueError(f"build_network: no network for stage {stage!r}; choose one of {', '.join(NETWORKS)}")
    return NETWORKS[stage](config)


def load_network(
    source: StageFile | str | Path,
    dtype: torch.dtype | None = None,
    layout: torch.memory_format = torch.contiguous_format,
    part: str = "",
    check: Callable[[], None] | None = None,
) -> nn.Module:
    """The network of a catalog's stage, or of a native file; part: only this submodule of it; check: see `load_stack`.

    What is stored as `dtype` (None: whatever it is) and `layout` stays in the mapped file, read when first touched;
    other matrices and kernels are brought to them one by one, so that there is never a second copy of all. Vectors keep
    the file's dtype. Raises CheckpointError if a file is not complete or does not fit the stage's config.
    """
    found = source if isinstance(source, StageFile) else read_stage(source)
    with torch.device("meta"):  # no memory, no initialisation: the file's tensors take the places
        network = build_network(found.stage, found.config)
    state = read_state(found, network, dtype=dtype, layout=layout, part=part, check=check)
    network = network.get_submodule(part)
    network.load_state_dict(state, strict=True, assign=True)
    return network


def load_stack(
    entry: StackEntry,
    dtype: str | torch.dtype = "auto",
    device: torch.device | str | None = None,
    manager: Manager | None = None,
    folders: Folders = (),
    check: Callable[[], None] | None = None,
) -> dict[str, object]:
    """Handles of every stage in STAGES; nothing is read until one is used, and one the stack lacks says so then.

    dtype: see `pick_dtype`. device: None picks the best. manager: what places the networks; None is `Placed`'s own
    rule. CLIP stays in float32. folders: the host's model folders, where fitted tables may lie. check: called before
    each tensor that is read; what it raises ends the reading, and the next use begins it anew.
    """
    from .clip import Clip
    from .stages import ARPrior, Decoder, Prior, Upsampler

    device = pick_device(device)
    weights = pick_dtype(dtype, device)
    handles: dict[str, object] = {stage: MissingStage(stage, entry) for stage in STAGES}
    if clip := entry.stages.get("clip"):
        # In float32 one by one, not first all and then all again.
        read_clip = partial(read_state, clip, dtype=torch.float32, check=check)
        handles["clip"] = Clip.from_config(clip.config, read_clip, device=device, manager=manager)
        handles["clip"].pca = partial(read_basis, entry, clip.config.clip_id, folders)

    @cache  # prior and decoder share it: CLIP need not come back for the second
    def null_text() -> TextEncoding:
        return handles["clip"].encode_text([""])

    def placed(found: StageFile, part: str = "") -> Placed:
        read, read_float32 = (
            partial(load_network, found, dtype, memory_format(device), part, check)
            for dtype in (weights, torch.float32)
        )
        return Placed(read, device, weights, manager, read_float32)

    for stage, text_stage in (("prior", Prior), ("decoder", Decoder)):
        if found := entry.stages.get(stage):
            handles[stage] = text_stage(found.config, placed(found), null_text)
    if found := entry.stages.get("prior"):
        timesteps = found.config.schedule.timesteps
        handles["prior"].noise_powers = partial(read_noise_powers, entry, found.config.prior_id, timesteps, folders)
    for stage in ("upsampler_256", "upsampler_1024"):
        if found := entry.stages.get(stage):
            parts = ("first", "final") if found.config.final_network else ("",)
            handles[stage] = Upsampler(found.config, *(placed(found, part) for part in parts))
    if found := entry.stages.get("ar_prior"):
        handles["ar_prior"] = ARPrior(found.config, placed(found))
    return handles
