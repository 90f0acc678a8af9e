"""Writes Kandinsky 2.1's own files from a diffusers folder's networks: the inverse of how that was made of them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import torch
from torch import Tensor

from comfyui_unclip.tests.unclip_core.checkpoints import karlo_files

CONDITIONING = {
    "add_embedding.text_proj": "proj_n",
    "add_embedding.text_norm": "ln_model_n",
    "add_embedding.image_proj": "img_layer",
    "encoder_hid_proj.image_embeds": "clip_to_seq",
    "encoder_hid_proj.text_proj": "to_model_dim_n",
}
# diffusers' names of MoVQ -> the original's, one after another.
MOVQ = (
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d)\.attentions", r"down.\1.attn"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d)\.resnets", r"up.\1.block"),
    (r"up_blocks\.(\d)\.attentions", r"up.\1.attn"),
    (r"up_blocks\.(\d)\.upsamplers\.0", r"up.\1.upsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"to_out\.0", "proj_out"),
    (r"\.to_([qkv])\.", r".\1."),
    (r"(spatial|group)_norm", "norm"),
)


def write_kandinsky_files(folder: Path, decoder: Path, prior: dict, networks: dict) -> None:
    """Prior, decoder, MoVQ and statistics, each under a name that says nothing, and the text encoder's folder.

    decoder: the diffusers folder, for its tokenizer.
    """
    folder.mkdir(parents=True)
    state = prior["prior"].state_dict()
    torch.save(karlo_files.prior_state(state, prior["prior"].attention_head_dim), folder / "a.ckpt")
    torch.save((state["clip_mean"][0].clone(), state["clip_std"][0].clone()), folder / "b.th")
    unet = networks["unet"]
    own = karlo_files.unet_state(unet, unet.config.attention_head_dim, "")
    for theirs, original in CONDITIONING.items():
        own |= karlo_files.moved(unet.state_dict(), theirs, original)
    torch.save(own, folder / "c.ckpt")
    torch.save(movq_state(networks["movq"]), folder / "d.ckpt")
    (folder / "text_encoder").mkdir()
    torch.save(networks["text_encoder"].state_dict(), folder / "text_encoder" / "pytorch_model.bin")
    shutil.copy(decoder / "tokenizer" / "tokenizer.json", folder / "text_encoder")


def movq_state(network: torch.nn.Module) -> dict[str, Tensor]:
    """Convolutions where diffusers has linear layers; the decoder's levels counted from the picture."""
    levels, result = len(network.config.block_out_channels), {}
    for name, tensor in network.state_dict().items():
        attention = re.search(r"\.to_(q|k|v|out\.0)\.weight$", name)
        for pattern, original in MOVQ:
            name = re.sub(pattern, original, name)
        name = re.sub(r"\bup\.(\d)", lambda found: f"up.{levels - 1 - int(found[1])}", name)
        result[name] = tensor[:, :, None, None] if attention else tensor
    return result
