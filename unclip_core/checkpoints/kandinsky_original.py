"""Kandinsky 2.1's own files: pickles without a config, for `unclip convert` only.

A folder with prior_fp16.ckpt, ViT-L-14_stats.th, decoder_fp16.ckpt or inpainting_fp16.ckpt, movq_final.ckpt, the folder
text_encoder (pytorch_model.bin, tokenizer.json) and OpenAI's ViT-L-14.pt. Each is known by its tensors' names, not by
what the file is called. There is one Kandinsky 2.1, so the sizes are the preset's; 2.2 is published as folders alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from ..config import DecoderConfig, StackConfig
from ..presets import KANDINSKY_2_1
from . import karlo_original
from .autoencoder_keys import original_names
from .header import CheckpointError
from .kandinsky_keys import IGNORED, multilingual_rule
from .karlo_original import prior_rule, read_originals, unet_rule
from .keys import Rule, assemble

# One name that only this file has, and the part that it is.
_MARKS = {
    "model.clip_img_proj.weight": "prior",
    "clip_to_seq.weight": "network",
    "decoder.norm_out.conv_y.weight": "autoencoder",
    "LinearTransformation.weight": "text_tower",
    "visual.conv1.weight": "clip",
}
_PREFIXES = {"prior": ("model.",)}
# The parts of a decoder, and the files that hold them.
_DECODER_FILES = {
    "autoencoder": "movq_final.ckpt",
    "text_tower": "text_encoder/pytorch_model.bin",
}
_CONDITIONING = {
    "embed_to_time": "img_layer",
    "embed_to_tokens": "clip_to_seq",
    "text_to_time": "proj_n",
    "text_time_norm": "ln_model_n",
    "text_proj": "to_model_dim_n",
}


class KandinskyFiles:
    """The stages found in a folder of Kandinsky 2.1's own files; none without a decoder, as Karlo's prior looks alike.

    tokenizer: the text encoder's words.
    """

    licence = "apache-2.0"

    def __init__(self, folder: Path, stack: StackConfig = KANDINSKY_2_1) -> None:
        """Raises CheckpointError for a damaged file, a pickle with code, a part found twice, and for a decoder without
        its autoencoder, text encoder or tokenizer."""
        self.folder = folder
        self.stack = stack
        self.tokenizer: Path | None = None
        inner = (path for path in sorted(folder.iterdir()) if path.is_dir())
        self._parts = read_originals(folder, (folder, *inner), _MARKS, _PREFIXES)
        if "network" not in self._parts:
            self._parts = {}
            return
        for part, file in _DECODER_FILES.items():
            if part not in self._parts:
                raise CheckpointError(f"{folder}: a decoder without its {part} ({file}); put that file beside it")
        words = next(iter(self._parts["text_tower"].values())).path.with_name("tokenizer.json")
        if not words.is_file():
            raise CheckpointError(f"{words}: missing, and the decoder reads captions by it; put it there")
        self.tokenizer = words

    @property
    def stages(self) -> dict[str, object]:
        """The config of every stage there is a file for."""
        found = {stage: getattr(self.stack, stage) for stage in ("clip", "prior") if stage in self._parts}
        return found | ({"decoder": self._decoder_config()} if self._parts else {})

    def _decoder_config(self) -> DecoderConfig:
        """The preset's, or that of the network for repainting, whose input has more channels."""
        config = self.stack.decoder
        channels = self._parts["network"]["input_blocks.0.0.weight"].shape[1]
        inpaint = replace(config.unet, in_channels=2 * config.channels + 1)
        if channels != inpaint.in_channels:
            return config
        decoder_id = config.decoder_id.replace("/", "-inpaint/", 1)
        return replace(config, decoder_id=decoder_id, extra_input="inpaint", unet=inpaint)

    def read_state(self, stage: str, network: nn.Module, **options) -> dict[str, Tensor]:
        """The state dict of the stage's network. options: `assemble`'s dtype and memory_format."""
        config = self.stages[stage]
        rules: dict[str, Callable[[str], Rule]] = {
            "clip": lambda name: Rule("clip", (name,)),
            "prior": lambda name: prior_rule(name, config.heads),
            "decoder": lambda name: _decoder(name, config),
        }
        names = ("network", *_DECODER_FILES) if stage == "decoder" else (stage,)
        parts = {name: self._parts[name] for name in names}
        ignored = (*karlo_original.IGNORED, *IGNORED)
        return assemble(network, rules[stage], parts, str(self.folder), ignored=ignored, **options)


def _decoder(name: str, config: DecoderConfig) -> Rule:
    part, _, rest = name.partition(".")
    if part == "text_tower":
        return multilingual_rule(rest)
    if part == "autoencoder":
        return Rule(part, original_names(rest, len(config.autoencoder.channels)))
    if rest.startswith("unet."):
        return unet_rule(part, "", rest.removeprefix("unet."), config.unet)
    module, _, leaf = rest.rpartition(".")
    return Rule(part, (f"{_CONDITIONING[module]}.{leaf}",))
