"""Training side branches (LoRA) alone: a stage's own task over a network whose weights stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.lora_file import save_lora
from ..checkpoints.native import load_strict
from ..models.lora import (
    Branch,
    BranchedConv2d,
    BranchedLinear,
    all_layers,
    attention_layers,
    new_branches,
    with_branches,
)
from ..runtime.device import DTYPES
from .precision import candidates
from .task_decoder import DecoderTask
from .task_prior import PriorTask

FILE_ENDING = "-lora"  # of the exported file's name, behind the stage
LAYERS: dict[str, Callable[[nn.Module], Mapping[str, nn.Module]]] = {"attention": attention_layers, "all": all_layers}


@dataclass(frozen=True)
class LoraSettings:
    """rank: of every branch. layers: "attention", or "all", convolutions too. base_dtype: of the frozen weights."""

    rank: int = 8
    layers: str = "attention"
    base_dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"--lora: the rank must be 1 or more, got {self.rank}")
        if self.layers not in LAYERS:
            raise ValueError(f"--lora-layers {self.layers!r} is unknown; choose one of {', '.join(LAYERS)}")

    def described(self) -> dict[str, str | int]:
        """The settings as JSON."""
        return {"rank": self.rank, "layers": self.layers, "base_dtype": str(self.base_dtype).removeprefix("torch.")}


def precision_for(device: torch.device, dtype: str) -> tuple[str, torch.dtype]:
    """(what a run computes in, what the weights that stay are kept in).

    On a GPU both are half precision, unless fp32 is asked for; elsewhere the weights are float32.
    """
    if device.type != "cuda":
        return dtype, torch.float32
    dtype = candidates(device)[-1] if dtype == "auto" else dtype
    return dtype, DTYPES[dtype]


def learning_branches(network: nn.Module, settings: LoraSettings, seed: int = 0) -> nn.Module:
    """The network with fresh branches, which alone are trained, in float32."""
    network = network.requires_grad_(False).to(settings.base_dtype)
    if not (layers := LAYERS[settings.layers](network)):
        raise ValueError(f"--lora-layers {settings.layers}: this network has no such layer; choose all")
    branches = new_branches(layers, settings.rank, seed)
    network = with_branches(network, branches, dtype=torch.float32)
    for layer in _branched(network).values():
        layer.down.requires_grad_()
        layer.up.requires_grad_()
    return network


def branches_of(network: nn.Module) -> dict[str, Branch]:
    """The branches of a network that has some, by the names of its layers."""
    return {name: Branch(layer.down.detach(), layer.up.detach()) for name, layer in _branched(network).items()}


def _branched(network: nn.Module) -> dict[str, BranchedLinear | BranchedConv2d]:
    kinds = BranchedLinear | BranchedConv2d
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


class _LoraTask:
    """Before a stage's task: its network begins with `weights`, which stay, and a LoRA file is what it exports."""

    base: str  # the stage
    stage: str  # what messages and the exported file are called

    def __init__(self, *task: Any, weights: Callable[[], Mapping[str, Tensor]], settings: LoraSettings) -> None:
        super().__init__(*task)
        self.weights, self.settings = weights, settings

    def build(self) -> nn.Module:
        """The network with its weights and fresh branches."""
        network = super().build()
        load_strict(network, {name: value.float() for name, value in self.weights().items()}, "the LoRA's base")
        return learning_branches(network, self.settings, self.recipe.seed)

    def export(self, network: nn.Module, path: Path, made_of: dict[str, Any]) -> None:
        """A LoRA file of this stage alone."""
        stage_id = getattr(self.config, f"{self.base}_id")
        save_lora(path, {self.base: (stage_id, branches_of(network))}, metadata=made_of)


class LoraPriorTask(_LoraTask, PriorTask):
    """A LoRA of a prior."""

    base, stage = "prior", f"prior{FILE_ENDING}"


class LoraDecoderTask(_LoraTask, DecoderTask):
    """A LoRA of a decoder."""

    base, stage = "decoder", f"decoder{FILE_ENDING}"


LORA_TASKS = {"prior": LoraPriorTask, "decoder": LoraDecoderTask}
