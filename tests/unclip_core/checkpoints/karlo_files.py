"""Writes Karlo's own files from a diffusers folder's networks: the inverse of how the published ones were made."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

PRIOR = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "proj_in": "clip_img_proj",
    "embedding_proj": "text_emb_proj",
    "encoder_hidden_states_proj": "text_enc_proj",
    "positional_embedding": "positional_embedding",
    "prd_embedding": "prd_emb",
    "norm_out": "final_ln",
    "proj_to_clip_embeddings": "out_proj",
}
PRIOR_BLOCK = {"norm1": "ln_1", "norm3": "ln_2", "attn1.to_out.0": "attn.c_proj"}
PRIOR_BLOCK |= {"ff.net.0.proj": "mlp.c_fc", "ff.net.2": "mlp.c_proj"}
TEXT_PROJ = {
    "encoder_hidden_states_proj": "text_seq_proj.0",
    "text_encoder_hidden_states_norm": "text_seq_proj.1",
    "clip_extra_context_tokens_proj": "clip_tok_proj",
    "embedding_proj": "text_feat_proj",
    "learned_classifier_free_guidance_embeddings": "cf_param",
    "clip_image_embeddings_project_to_time_embeddings": "clip_emb",
}
RES_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
LEAVES = ("weight", "bias")


def write_karlo_files(folder: Path, networks: dict[str, torch.nn.Module], head_channels: int) -> None:
    """Prior, decoder, super-resolution and statistics, each under a name that says nothing."""
    folder.mkdir(parents=True)
    prior = networks["prior"].state_dict()
    torch.save({"state_dict": prior_state(prior, networks["prior"].attention_head_dim)}, folder / "a.ckpt")
    torch.save((prior["clip_mean"][0].clone(), prior["clip_std"][0].clone()), folder / "b.th")
    decoder = unet_state(networks["decoder"], head_channels, "model.")
    for theirs, original in TEXT_PROJ.items():
        decoder |= moved(networks["text_proj"].state_dict(), theirs, f"model.{original}")
    torch.save({"state_dict": decoder, "epoch": 3}, folder / "c.ckpt")
    first = unet_state(networks["super_res_first"], 1, "model_first_steps.")
    last = unet_state(networks["super_res_last"], 1, "model_last_step.")
    torch.save({"state_dict": first | last}, folder / "d.ckpt")


def moved(state: dict[str, Tensor], theirs: str, original: str) -> dict[str, Tensor]:
    """A tensor, or a module's weight and bias, under another name."""
    if theirs in state:
        return {original: state[theirs]}
    return {f"{original}.{leaf}": state[f"{theirs}.{leaf}"] for leaf in LEAVES if f"{theirs}.{leaf}" in state}


def woven(tensors: list[Tensor], chunk: int) -> Tensor:
    """Rows of several projections, `chunk` of each in turn: how GLIDE's attention lays out its heads."""
    chunks = [tensor.split(chunk) for tensor in tensors]
    return torch.cat([part for group in zip(*chunks, strict=True) for part in group])


def prior_state(state: dict[str, Tensor], head_width: int) -> dict[str, Tensor]:
    """`state_dict` of the prior's checkpoint."""
    result = {}
    for theirs, original in PRIOR.items():
        result |= moved(state, theirs, f"model.{original}")
    index = 0
    while f"transformer_blocks.{index}.norm1.weight" in state:
        block, target = f"transformer_blocks.{index}", f"model.transformer.resblocks.{index}"
        for theirs, original in PRIOR_BLOCK.items():
            result |= moved(state, f"{block}.{theirs}", f"{target}.{original}")
        for leaf in LEAVES:
            parts = [state[f"{block}.attn1.to_{part}.{leaf}"] for part in "qkv"]
            result[f"{target}.attn.c_qkv.{leaf}"] = woven(parts, head_width)
        index += 1
    return result


def unet_state(network: torch.nn.Module, head_channels: int, prefix: str) -> dict[str, Tensor]:
    """`state_dict` of one UNet: blocks numbered through, resampling on the way up inside the last block's number."""
    state = network.state_dict()
    result = {}
    for theirs, original in {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }.items():
        result |= moved(state, theirs, original)

    def res_block(theirs: str, original: str) -> None:
        for name, renamed in RES_BLOCK.items():
            result.update(moved(state, f"{theirs}.{name}", f"{original}.{renamed}"))

    def attention(theirs: str, original: str) -> None:
        result.update(moved(state, f"{theirs}.group_norm", f"{original}.norm"))
        for names, renamed in ((("to_q", "to_k", "to_v"), "qkv"), (("add_k_proj", "add_v_proj"), "encoder_kv")):
            for leaf in LEAVES:
                tensor = woven([state[f"{theirs}.{name}.{leaf}"] for name in names], head_channels)
                result[f"{original}.{renamed}.{leaf}"] = tensor[..., None] if leaf == "weight" else tensor
        result[f"{original}.proj_out.weight"] = state[f"{theirs}.to_out.0.weight"][..., None]
        result[f"{original}.proj_out.bias"] = state[f"{theirs}.to_out.0.bias"]

    number = 1
    for level, block in enumerate(network.down_blocks):
        place = f"down_blocks.{level}"
        for index in range(len(block.resnets)):
            res_block(f"{place}.resnets.{index}", f"input_blocks.{number}.0")
            if hasattr(block, "attentions"):
                attention(f"{place}.attentions.{index}", f"input_blocks.{number}.1")
            number += 1
        if block.downsamplers is not None:
            res_block(f"{place}.downsamplers.0", f"input_blocks.{number}.0")
            number += 1
    attends = "mid_block.attentions.0.to_q.weight" in state
    res_block("mid_block.resnets.0", "middle_block.0")
    if attends:
        attention("mid_block.attentions.0", "middle_block.1")
    res_block("mid_block.resnets.1", f"middle_block.{1 + attends}")
    number = 0
    for level, block in enumerate(network.up_blocks):
        place = f"up_blocks.{level}"
        for index in range(len(block.resnets)):
            res_block(f"{place}.resnets.{index}", f"output_blocks.{number}.0")
            if hasattr(block, "attentions"):
                attention(f"{place}.attentions.{index}", f"output_blocks.{number}.1")
            number += 1
        if block.upsamplers is not None:
            slot = 2 if hasattr(block, "attentions") else 1
            res_block(f"{place}.upsamplers.0", f"output_blocks.{number - 1}.{slot}")
    return {prefix + name: tensor for name, tensor in result.items()}
