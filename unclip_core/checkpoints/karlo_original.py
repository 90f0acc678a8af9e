"""Karlo's own files: pickles without a config, for `unclip convert` only.

A folder of `.ckpt` files with `state_dict`s (prior, decoder, improved super-resolution), the pair of mean and standard
deviation of CLIP's embeddings (`ViT-L-14_stats.th`) and OpenAI's CLIP (`ViT-L-14.pt`). Each is known by its tensors'
names, not by what the file is called. There is one Karlo, so the sizes are the preset's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from ..config import StackConfig, UNetConfig
from ..presets import KARLO
from .adm_keys import RES_BLOCK, TOP, place_of
from .header import CheckpointError
from .keys import Rule, assemble
from .pickles import is_torchscript, read_pickle, tensors_by_name
from .stand_ins import Listed
from .tensors import Source, pickled_sources
from .torchscript import open_torchscript

SUFFIXES = (".ckpt", ".th", ".pt", ".pth", ".bin")
# One name that only this file has; the stage; the prefix of its names.
_MARKS = {
    "model.clip_img_proj.weight": "prior",
    "model.clip_tok_proj.weight": "decoder",
    "model_first_steps.input_blocks.0.0.weight": "upsampler_256",
    "visual.conv1.weight": "clip",
}
_PREFIXES = {"prior": ("model.",), "decoder": ("model.",), "upsampler_256": ("model_first_steps.", "model_last_step.")}
IGNORED = ("causal_mask", "attn_mask", "input_resolution", "context_length", "vocab_size")
_PRIOR = {
    "text_in": "text_enc_proj",
    "embed_in": "text_emb_proj",
    "time_embed.linear_1": "time_embed.0",
    "time_embed.linear_2": "time_embed.2",
    "noisy_in": "clip_img_proj",
    "norm_out": "final_ln",
    "out": "out_proj",
}
_PRIOR_BLOCK = {"qkv": "attn.c_qkv", "proj": "attn.c_proj", "norm_1": "ln_1", "norm_2": "ln_2"}
_PRIOR_BLOCK |= {"mlp_in": "mlp.c_fc", "mlp_out": "mlp.c_proj"}
_DECODER = {
    "embed_to_time": "clip_emb",
    "embed_to_tokens": "clip_tok_proj",
    "text_to_time": "text_feat_proj",
    "text_proj": "text_seq_proj.0",
    "text_norm": "text_seq_proj.1",
}
_ATTENTION = {"norm": "norm", "qkv": "qkv", "context_kv": "encoder_kv", "proj": "proj_out"}


class KarloFiles:
    """The stages found in a folder of Karlo's own files. Tensors are mapped, or read one by one."""

    tokenizer: Path | None = None  # its words are open_clip's
    licence = "creativeml-openrail-m"

    def __init__(self, folder: Path, stack: StackConfig = KARLO) -> None:
        """Raises CheckpointError for a damaged file, a pickle with code, a stage found twice or a prior without its
        statistics; a folder without any such file has no stages."""
        self.folder = folder
        self.stack = stack
        self._parts = read_originals(folder, (folder,), _MARKS, _PREFIXES)

    @property
    def stages(self) -> dict[str, object]:
        """The config of every stage there is a file for."""
        return {stage: getattr(self.stack, stage) for stage in _MARKS.values() if stage in self._parts}

    def read_state(self, stage: str, network: nn.Module, **options) -> dict[str, Tensor]:
        """The state dict of the stage's network. options: `assemble`'s dtype and memory_format."""
        config = getattr(self.stack, stage)
        rules: dict[str, Callable[[str], Rule]] = {
            "clip": lambda name: Rule("clip", (name,)),
            "prior": lambda name: prior_rule(name, config.heads),
            "decoder": lambda name: _decoder(name, config.unet),
            "upsampler_256": lambda name: _upsampler(name, config.unet),
        }
        parts = {stage: self._parts[stage]}
        return assemble(network, rules[stage], parts, str(self.folder), ignored=IGNORED, **options)


def read_originals(
    folder: Path, folders: tuple[Path, ...], marks: Mapping[str, str], prefixes: Mapping[str, tuple[str, ...]]
) -> dict[str, dict[str, Source]]:
    """The tensors of original files, by part. folders: where they lie; folder: what to call it in an error. marks: one
    name that only a part's file has. prefixes: of the part's names; outside them lies what training kept.

    Raises CheckpointError for a damaged file, a pickle with code, a part found twice or a prior without its statistics.
    """
    parts: dict[str, dict[str, Source]] = {}
    stats: dict[str, Source] = {}
    paths = [path for each in folders for path in sorted(each.iterdir())]
    for path in (path for path in paths if path.suffix in SUFFIXES and path.is_file()):
        if is_torchscript(path):
            sources = open_torchscript(path)
        else:
            pickled = read_pickle(path)
            if _is_pair(pickled.value):
                stats = pickled_sources(path, pickled, dict(zip(("mean", "std"), pickled.value, strict=True)))
            sources = pickled_sources(path, pickled, tensors_by_name(path, pickled.value))
        part = next((part for mark, part in marks.items() if mark in sources), None)
        if part is None:
            continue
        if part in parts:
            raise CheckpointError(f"{path}: a second {part} in {folder}; leave one")
        within = prefixes.get(part, ("",))
        parts[part] = {name: source for name, source in sources.items() if name.startswith(within)}
    if "prior" in parts:
        if not stats:
            raise CheckpointError(
                f"{folder}: no file with the mean and standard deviation of CLIP's embeddings "
                "(ViT-L-14_stats.th), which the prior needs"
            )
        parts["prior"] |= stats
    return parts


def _is_pair(value: object) -> bool:
    """Whether it is two vectors."""
    pair = isinstance(value, tuple | list) and len(value) == 2
    return pair and all(isinstance(item, Listed) and len(item.shape) == 1 for item in value)


def prior_rule(name: str, heads: int) -> Rule:
    """Where one of our prior's tensors comes from, of `heads` heads."""
    if name in ("mean", "std"):
        return Rule("prior", (name,))
    if name == "query":
        return Rule("prior", ("model.prd_emb",))
    if name == "position_embedding":
        return Rule("prior", ("model.positional_embedding",))
    module, _, leaf = name.rpartition(".")
    if not module.startswith("blocks."):
        return Rule("prior", (f"model.{_PRIOR[module]}.{leaf}",))
    _, index, inner = module.split(".")
    rows = (3, heads) if inner == "qkv" else None
    return Rule("prior", (f"model.transformer.resblocks.{index}.{_PRIOR_BLOCK[inner]}.{leaf}",), interleaved=rows)


def _decoder(name: str, config: UNetConfig) -> Rule:
    if name.startswith("unet."):
        return unet_rule("decoder", "model.", name.removeprefix("unet."), config)
    if name == "null_embed":
        return Rule("decoder", ("model.cf_param",))
    module, _, leaf = name.rpartition(".")
    return Rule("decoder", (f"model.{_DECODER[module]}.{leaf}",))


def _upsampler(name: str, config: UNetConfig) -> Rule:
    network, _, rest = name.partition(".unet.")
    prefix = {"first": "model_first_steps.", "final": "model_last_step."}[network]
    return unet_rule("upsampler_256", prefix, rest, config)


def unet_rule(part: str, prefix: str, name: str, config: UNetConfig) -> Rule:
    """Where one of our UNet's tensors comes from: names of `part` that begin with `prefix`."""
    module, _, leaf = name.rpartition(".")
    if module in TOP:
        return Rule(part, (f"{prefix}{TOP[module]}.{leaf}",))
    place, kind, inner, level = place_of(module, config)
    if kind != "attentions":
        return Rule(part, (f"{prefix}{place}.{RES_BLOCK[inner]}.{leaf}",))
    heads = config.channels * config.channel_mult[level] // config.head_channels
    rows = {"qkv": (3, heads), "context_kv": (2, heads)}.get(inner)
    return Rule(part, (f"{prefix}{place}.{_ATTENTION[inner]}.{leaf}",), interleaved=rows)
