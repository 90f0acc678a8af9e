"""Where modules of our UNet lie in ADM's own files, as Karlo's and latent diffusion's are: blocks are numbered through.

A level has `depth` blocks and its resampling; on the way up it has one block more, whose number the resampling shares.
"""

from __future__ import annotations

from ..config import UNetConfig

TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embed.linear_1": "time_embed.0",
    "time_embed.linear_2": "time_embed.2",
    "norm_out": "out.0",
    "conv_out": "out.2",
}
RES_BLOCK = {
    "norm_1": "in_layers.0",
    "conv_1": "in_layers.2",
    "time": "emb_layers.1",
    "norm_2": "out_layers.0",
    "conv_2": "out_layers.3",
    "skip": "skip_connection",
}


def place_of(module: str, config: UNetConfig) -> tuple[str, str, str, int]:
    """Of one of our UNet's modules within levels: (its block's place, what it is, its name within, its level).

    What it is: "blocks", "attentions" or "resample".
    """
    first, _, rest = module.partition(".")
    stride, levels = config.depth + 1, len(config.channel_mult)
    if first == "mid_out":
        return f"middle_block.{2 if config.attention_resolutions else 1}", "blocks", rest, levels - 1
    if first == "mid":
        kind, _, inner = rest.split(".")
        return f"middle_block.{int(kind == 'attentions')}", kind, inner, levels - 1
    number, kind, inner = rest.split(".", 2)
    level = int(number) if first == "down" else levels - 1 - int(number)
    start = 1 + int(number) * stride if first == "down" else int(number) * stride
    blocks = "input_blocks" if first == "down" else "output_blocks"
    if kind == "resample":
        attends = config.image_size >> level in config.attention_resolutions
        # On the way up it comes after the block's attention.
        slot = 0 if first == "down" else 1 + attends
        return f"{blocks}.{start + config.depth}.{slot}", kind, inner, level
    index, _, inner = inner.partition(".")
    return f"{blocks}.{start + int(index)}.{int(kind == 'attentions')}", kind, inner, level
