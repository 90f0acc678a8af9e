"""From a stack on disk to the handles of its stages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from .checkpoints.catalog import StackEntry
from .checkpoints.header import StageFile
from .checkpoints.native import load_stage, load_strict
from .config import STAGES
from .device import Placed, pick_device, pick_dtype
from .models.ar_prior import ARPriorNetwork
from .models.decoder import DecoderNetwork
from .models.prior import PriorNetwork
from .models.upsampler import UpsamplerNetwork
from .types import TextEncoding

NETWORKS: dict[str, type[nn.Module]] = {
    "prior": PriorNetwork,
    "decoder": DecoderNetwork,
    "upsampler_256": UpsamplerNetwork,
    "upsampler_1024": UpsamplerNetwork,
    "ar_prior": ARPriorNetwork,
}


class MissingStage:
    """Stands for a stage that a stack lacks: using it raises ValueError with what the stack has."""

    def __init__(self, stage: str, stack: str, present: tuple[str, ...]) -> None:
        self._message = (
            f"Load unCLIP: model {stack!r} has no {stage} stage (it has {', '.join(present)}); "
            f"load a model that has one, or put a {stage}.safetensors into its folder"
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


def load_network(path: str | Path) -> nn.Module:
    """The network of a native stage file; its tensors are the mapped file's, read when first touched.

    Raises CheckpointError if the file is not a complete stage or does not fit its own config.
    """
    stage, config, state = load_stage(path)
    with torch.device("meta"):  # no memory, no initialisation: the file's tensors take the places
        network = build_network(stage, config)
    load_strict(network, state, str(path), assign=True)
    return network


def load_stack(
    entry: StackEntry,
    dtype: str | torch.dtype = "auto",
    device: torch.device | str | None = None,
    on_place: Callable[[nn.Module], None] | None = None,
) -> dict[str, object]:
    """Handles of every stage in STAGES; nothing is read until one is used, and one the stack lacks says so then.

    dtype: see `pick_dtype`. device: None picks the best. on_place: see `Placed`. CLIP stays in float32.
    """
    from .clip import Clip
    from .stages import ARPrior, Decoder, Prior, Upsampler

    device = pick_device(device)
    weights = pick_dtype(dtype, device)
    present = tuple(entry.stages)
    handles: dict[str, object] = {stage: MissingStage(stage, entry.name, present) for stage in STAGES}
    if clip := entry.stages.get("clip"):
        handles["clip"] = Clip.from_config(clip.config, lambda: load_stage(clip.path)[2], device=device)

    def null_text() -> TextEncoding:
        return handles["clip"].encode_text([""])

    def placed(found: StageFile) -> Placed:
        return Placed(partial(load_network, found.path), device, weights, on_place)

    for stage, text_stage in (("prior", Prior), ("decoder", Decoder)):
        if found := entry.stages.get(stage):
            handles[stage] = text_stage(found.config, placed(found), null_text)
    for stage in ("upsampler_256", "upsampler_1024"):
        if found := entry.stages.get(stage):
            handles[stage] = Upsampler(found.config, placed(found))
    if found := entry.stages.get("ar_prior"):
        handles["ar_prior"] = ARPrior(found.config, placed(found))
    return handles
