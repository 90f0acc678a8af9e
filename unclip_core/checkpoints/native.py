"""Our own files: one safetensors per stage, with the config and the recipe in the metadata."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..config import FORMAT_VERSION, STAGE_CONFIGS, to_json
from ..disk import whole_file
from ..texts import first_few
from .header import CheckpointError


def save_stage(
    path: str | os.PathLike,
    state: Mapping[str, Tensor],
    stage: str,
    config: object,
    metadata: Mapping[str, object] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a stage's state dict with its config. The file appears whole or not at all.

    metadata: more pairs, such as `recipe`; values other than strings are stored as JSON. dtype: what matrices and
    kernels are stored as; None keeps theirs, and vectors (biases, norms, statistics) always keep theirs. Raises
    ValueError for an unknown stage or another stage's config.
    """
    path = Path(path)
    if stage not in STAGE_CONFIGS:
        raise ValueError(f"save_stage: unknown stage {stage!r}; choose one of {', '.join(STAGE_CONFIGS)}")
    if not isinstance(config, STAGE_CONFIGS[stage]):
        raise ValueError(f"save_stage: stage {stage!r} needs a {STAGE_CONFIGS[stage].__name__}, got {config!r}")
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (metadata or {}).items()}
    ids = [getattr(config, field.name) for field in dataclasses.fields(config) if field.name.endswith("_id")]
    header = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"unclip/{stage}",
        "modelspec.title": ids[-1] if ids else stage,  # the stage's own id stands after that of its CLIP
        "modelspec.date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        **texts,
        "format_version": str(FORMAT_VERSION),
        "stage": stage,
        "config": to_json(config),
    }
    tensors: dict[str, Tensor] = {}
    storages = set()
    for name, tensor in state.items():
        stored = dtype if dtype is not None and tensor.is_floating_point() and tensor.ndim > 1 else tensor.dtype
        tensor = tensor.detach().to("cpu", stored).contiguous()  # safetensors knows no channels-last strides
        pointer = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if pointer in storages else tensor  # nor tensors that share memory
        storages.add(pointer)
    write_safetensors(path, tensors, header)


def load_strict(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Put `state` into `module`; every name and shape must match. where: what to call the source in the error.

    Raises CheckpointError listing missing, unexpected and misshapen tensors.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of the wrong shape": misshapen}
    if found := "; ".join(f"{kind}: {first_few(names, 8)}" for kind, names in problems.items() if names):
        raise CheckpointError(
            f"{where}: the weights do not fit {type(module).__name__} ({found}); use the file's own config"
        )
    module.load_state_dict(dict(state), strict=True)


def write_safetensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a file that appears whole or not at all, and outlives a power cut. Raises DiskFull."""
    size = sum(tensor.nbytes for tensor in tensors.values())
    with whole_file(path, durable=True, size=size) as temporary:
        save_file(tensors, temporary, metadata=header)
