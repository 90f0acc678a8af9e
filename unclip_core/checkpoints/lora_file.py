"""LoRAs as files: one safetensors with the side branches of one or more stages, and the embeddings of new words.

Tensors go by `<stage>.<layer>.down` and `.up`; the metadata say for which networks they were trained. Files of other
programs for the attention layers of Karlo and Kandinsky 2 are read too (`lora_keys`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..config import DecoderConfig, PriorConfig
from ..models.lora import Branch, Lora, layer_shapes
from . import diffusers_keys, kandinsky_keys
from .header import CheckpointError
from .lora_catalog import KIND, VERSION, WORDS, LoraInfo, read_lora_info
from .lora_keys import foreign_layers, metadata_scale
from .native import write_safetensors


@dataclass(frozen=True, eq=False)
class LoraFile:
    """A LoRA file that was read. words: {new word: its token embedding (W,)}."""

    info: LoraInfo
    words: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.info.path.stem

    def stage_lora(self, stage: str, config: PriorConfig | DecoderConfig) -> Lora:
        """The branches for a stage of this config. Raises ValueError if it has none, or those of another network."""
        if stage not in self.info.ids:
            raise ValueError(f"{self.info.path} has nothing for a {stage}; it has {self.contents()}")
        expected = config.prior_id if stage == "prior" else config.decoder_id
        if (found := self.info.ids[stage]) not in ("", expected):
            raise ValueError(
                f"{self.info.path} was trained on the {stage} {found}, but this {stage} is {expected}; load the model "
                "that it was trained on"
            )
        if self.info.native:
            branches = _native_branches(self.tensors, stage)
        else:
            branches = _foreign_branches(self.info, self.tensors, stage, config)
        if wrong := [name for name, branch in branches.items() if not _finite(branch)]:
            raise CheckpointError(f"{self.info.path}: the branch of {wrong[0]} holds NaN or infinity; train it again")
        return Lora.of(self.name, branches)

    def contents(self) -> str:
        """For messages: its stages and words."""
        parts = [f"{stage} ({name})" if name else stage for stage, name in self.info.ids.items()]
        return ", ".join(parts + [f"the word {word!r}" for word in self.info.words]) or "nothing"


def save_lora(
    path: Path,
    loras: Mapping[str, tuple[str, Mapping[str, Branch]]],
    *,
    clip_id: str = "",
    words: Mapping[str, Tensor] | None = None,
    trigger: str = "",
    metadata: Mapping[str, object] | None = None,
) -> None:
    """Write a LoRA file, whole or not at all. Branches are stored as bfloat16.

    loras: {stage: (id of the network, its branches by layer)}. words: {new word: token embedding (W,)} of the CLIP
    `clip_id`, kept in float32. trigger: what a caption should say. metadata: more pairs; values other than strings are
    stored as JSON.
    """
    tensors, ranks = {}, {}
    for stage, (_, branches) in loras.items():
        for layer, branch in branches.items():
            tensors[f"{stage}.{layer}.down"] = branch.down.detach().to("cpu", torch.bfloat16).contiguous()
            tensors[f"{stage}.{layer}.up"] = branch.up.detach().to("cpu", torch.bfloat16).contiguous()
        ranks[stage] = max(branch.down.shape[0] for branch in branches.values())
    if words:
        tensors[WORDS] = torch.stack([row.detach().float().cpu() for row in words.values()])
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (metadata or {}).items()}
    header = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "unclip/lora",
        "modelspec.title": path.stem,
        "modelspec.trigger_phrase": trigger,
        **texts,
        "kind": KIND,
        "format_version": VERSION,
        "stages": json.dumps({stage: name for stage, (name, _) in loras.items()}),
        "ranks": json.dumps(ranks),
        "clip_id": clip_id,
        "words": json.dumps(list(words or ()), ensure_ascii=False),
    }
    write_safetensors(path, tensors, header)


def load_lora(path: str | Path) -> LoraFile:
    """Read a LoRA file. Raises CheckpointError naming the file and what is wrong with it."""
    info = read_lora_info(path)
    try:
        tensors = load_file(info.path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error}); download it again") from None
    words = dict(zip(info.words, tensors[WORDS].float(), strict=True)) if info.words else {}
    if wrong := [word for word, row in words.items() if not torch.isfinite(row).all()]:
        raise CheckpointError(f"{path}: the embedding of {wrong[0]!r} holds NaN or infinity; train it again")
    return LoraFile(info, words, tensors)


def _native_branches(tensors: Mapping[str, Tensor], stage: str) -> dict[str, Branch]:
    start, branches = f"{stage}.", {}
    for name, down in tensors.items():
        if name.startswith(start) and name.endswith(".down"):
            layer = name[len(start) : -len(".down")]
            up = tensors.get(f"{start}{layer}.up")
            if up is None:
                raise CheckpointError(f"the LoRA lacks {start}{layer}.up; save it again")
            branches[layer] = Branch(down, up)
    return branches


def _foreign_branches(
    info: LoraInfo, tensors: Mapping[str, Tensor], stage: str, config: PriorConfig | DecoderConfig
) -> dict[str, Branch]:
    """Branches of diffusers' layers as ours: those of q, k and v, one layer here, become one branch of three blocks."""
    try:
        found = foreign_layers(tensors)[stage]
        pairs = {
            layer: (tensors[pair.down].float(), tensors[pair.up].float() * _scale(info, tensors, layer, pair))
            for layer, pair in found.items()
        }
    except CheckpointError as error:
        raise CheckpointError(f"{info.path}: {error}") from None
    branches, used = {}, set()
    for name, (rows, width, *_) in layer_shapes(stage, config).items():
        names = _foreign_names(stage, config, name)
        if not pairs.keys() & set(names):
            continue
        part_rows, blocks = rows // len(names), []
        for theirs in names:
            down, up = pairs.get(theirs, (torch.zeros(0, width), torch.zeros(part_rows, 0)))
            if down.ndim != 2 or up.ndim != 2 or (down.shape[1], up.shape[0]) != (width, part_rows):
                raise ValueError(
                    f"{info.path}: {theirs} goes from {down.shape[-1]} to {up.shape[0]} channels, but this {stage}'s "
                    f"from {width} to {part_rows}; it was trained on another model"
                )
            blocks.append((down, up))
        branches[name] = Branch(torch.cat([down for down, _ in blocks]), torch.block_diag(*(up for _, up in blocks)))
        used.update(names)
    if left := sorted(pairs.keys() - used):
        raise ValueError(
            f"{info.path}: this {stage} has no layer {left[0]} (and {len(left) - 1} more); it was trained on another "
            "model"
        )
    return branches


def _foreign_names(stage: str, config: PriorConfig | DecoderConfig, layer: str) -> tuple[str, ...]:
    """diffusers' names of the layers that are ours called `layer`; () for one that diffusers' networks lack."""
    try:
        if stage == "prior":
            rule = diffusers_keys.rule_of("prior")(f"{layer}.weight")
        else:
            rule = kandinsky_keys.kandinsky_rule(f"{layer}.weight")  # Karlo's UNet has the same names
    except KeyError:
        return ()
    return tuple(source.removesuffix(".weight") for source in rule.sources)


def _scale(info: LoraInfo, tensors: Mapping[str, Tensor], layer: str, pair) -> float:
    rank = tensors[pair.down].shape[0]
    if pair.alpha:
        return float(tensors[pair.alpha]) / rank
    return metadata_scale(info.metadata, layer, rank)


def _finite(branch: Branch) -> bool:
    return bool(torch.isfinite(branch.down).all() and torch.isfinite(branch.up).all())
