"""The text half alone of a CLIP's file."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..clip.captions import CaptionTower
from ..models.empty import without_contents
from .header import StageFile
from .keys import Rule, assemble
from .tensors import open_weights

# Our names and open_clip's, of a block and around them.
_LAYERS = {
    "norm_1": "ln_1",
    "norm_2": "ln_2",
    "proj": "attn.out_proj",
    "mlp_in": "mlp.c_fc",
    "mlp_out": "mlp.c_proj",
    "qkv.weight": "attn.in_proj_weight",
    "qkv.bias": "attn.in_proj_bias",
}
_OTHERS = {
    "text_projection": "text_projection",
    "tower.token_embedding.weight": "token_embedding.weight",
    "tower.position_embedding": "positional_embedding",
    "tower.norm.weight": "ln_final.weight",
    "tower.norm.bias": "ln_final.bias",
}


def has_caption_tower(found: StageFile) -> bool:
    """Whether a CLIP's captions can be encoded by `CaptionTower`: of our own files, with a plain tower."""
    config, text = found.config, found.config.text
    plain = text is not None and not config.quick_gelu and text.mlp_width in (0, 4 * text.width)
    return plain and found.layout == "native" and "text" in config.towers


def load_caption_tower(found: StageFile, dtype: torch.dtype, check: Callable[[], None] | None = None) -> CaptionTower:
    """The text half of a CLIP's file, mapped. check: see `assemble`. Raises CheckpointError naming file, key,
    expected and found."""
    with without_contents():
        network = CaptionTower(found.config)
    (weights,) = found.weights(None).values()
    sources = {
        name: source
        for name, source in open_weights(weights).items()
        if not name.startswith("visual.") and name != "logit_scale"
    }
    state = assemble(network, _rule_of, {"": sources}, str(found.path), dtype=dtype, check=check)
    network.load_state_dict(state, strict=True, assign=True)
    return network


def _rule_of(name: str) -> Rule:
    if name in _OTHERS:
        return Rule("", (_OTHERS[name],))
    _, _, block, rest = name.split(".", 3)  # tower.blocks.N.
    layer, _, kind = rest.partition(".")
    theirs = _LAYERS[rest] if rest in _LAYERS else f"{_LAYERS[layer]}.{kind}"
    return Rule("", (f"transformer.resblocks.{block}.{theirs}",))
