"""Writes a single file of Stable unCLIP from a diffusers folder's networks, by the names of latent diffusion."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from comfyui_unclip.tests.unclip_core.checkpoints.karlo_files import RES_BLOCK

UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
AUTOENCODER_BLOCK = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {"conv_shortcut": "nin_shortcut"}
AUTOENCODER_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
CLIP_BLOCK = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj"}
CLIP_BLOCK |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
State = dict[str, Tensor]


def write_single(path: Path, networks: dict[str, torch.nn.Module], *, whole_text: bool) -> State:
    """`.safetensors`, or `.ckpt` with a `state_dict`. whole_text: the text half of OpenCLIP's CLIP, as in the published
    files; the last block and the projection, which the decoder does not use, are then random. Returns what it wrote."""
    state = unet_state(networks["unet"]) | autoencoder_state(networks["vae"])
    state |= text_state(networks["text_encoder"], networks["image_encoder"].config.projection_dim, whole_text)
    state |= vision_state(networks["image_encoder"])
    # What training and the encoders' own classes leave behind.
    state |= {"first_stage_model.loss.logvar": torch.tensor(0.0)}
    state |= {"model_ema.decay": torch.tensor(0.999), "betas": torch.rand(10), "noise_augmentor.betas": torch.rand(10)}
    state |= {"embedder.model.logit_scale": torch.tensor(4.6), "embedder.model.ln_final.weight": torch.rand(4)}
    state = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "global_step": 7}, path)
    return state


def unet_state(network: torch.nn.Module) -> State:
    """Blocks are numbered through; resampling on the way up lies inside the last block's number."""
    state, places = network.state_dict(), dict(UNET)

    def block(theirs: str, original: str, attends: bool) -> None:
        places.update({f"{theirs.format('resnets')}.{new}": f"{original}.0.{old}" for new, old in RES_BLOCK.items()})
        if attends:
            places[theirs.format("attentions")] = f"{original}.1"

    number = 1
    for level, down in enumerate(network.down_blocks):
        for index in range(len(down.resnets)):
            block(f"down_blocks.{level}.{{}}.{index}", f"input_blocks.{number}", hasattr(down, "attentions"))
            number += 1
        if down.downsamplers is not None:
            places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    for index, place in ((0, "middle_block.0"), (1, "middle_block.2")):
        places |= {f"mid_block.resnets.{index}.{new}": f"{place}.{old}" for new, old in RES_BLOCK.items()}
    places["mid_block.attentions.0"] = "middle_block.1"
    number = 0
    for level, up in enumerate(network.up_blocks):
        attends = hasattr(up, "attentions")
        for index in range(len(up.resnets)):
            block(f"up_blocks.{level}.{{}}.{index}", f"output_blocks.{number}", attends)
            number += 1
        if up.upsamplers is not None:
            places[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{1 + attends}.conv"
    return {f"model.diffusion_model.{_moved(name, places)}": tensor for name, tensor in state.items()}


def autoencoder_state(network: torch.nn.Module) -> State:
    """Its attention's matrices are kernels of 1 x 1; the decoder's levels are numbered from the picture."""
    places = {"encoder.conv_norm_out": "encoder.norm_out", "decoder.conv_norm_out": "decoder.norm_out"}
    for half in ("encoder", "decoder"):
        for index in (0, 1):
            for new, old in AUTOENCODER_BLOCK.items():
                places[f"{half}.mid_block.resnets.{index}.{new}"] = f"{half}.mid.block_{index + 1}.{old}"
        for new, old in AUTOENCODER_ATTENTION.items():
            places[f"{half}.mid_block.attentions.0.{new}"] = f"{half}.mid.attn_1.{old}"
    levels = len(network.encoder.down_blocks)
    for level in range(levels):
        for theirs, original, resample in (
            (f"encoder.down_blocks.{level}", f"encoder.down.{level}", "down"),
            (f"decoder.up_blocks.{level}", f"decoder.up.{levels - 1 - level}", "up"),
        ):
            places[f"{theirs}.{resample}samplers.0"] = f"{original}.{resample}sample"
            for index in range(10):
                for new, old in AUTOENCODER_BLOCK.items():
                    places[f"{theirs}.resnets.{index}.{new}"] = f"{original}.block.{index}.{old}"
    state = {}
    for name, tensor in network.state_dict().items():
        kernel = ".attn_1." in (moved := _moved(name, places)) and tensor.ndim == 2
        state[f"first_stage_model.{moved}"] = tensor[:, :, None, None] if kernel else tensor
    return state


def text_state(network: torch.nn.Module, dim: int, whole: bool) -> State:
    """Of its half of CLIP."""
    state = {name.removeprefix("text_model."): tensor for name, tensor in network.state_dict().items()}
    found = {
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
    }
    found |= _clip_blocks(state, "encoder.layers")
    if whole:
        width, last = found["ln_final.weight"].shape[0], network.config.num_hidden_layers
        like = {name: tensor for name, tensor in found.items() if ".resblocks.0." in name}
        found |= {name.replace(".0.", f".{last}."): 0.05 * torch.randn_like(tensor) for name, tensor in like.items()}
        found |= {"text_projection": torch.randn(width, dim) * width**-0.5, "logit_scale": torch.tensor(4.6)}
    return {f"cond_stage_model.model.{name}": tensor for name, tensor in found.items()}


def vision_state(network: torch.nn.Module) -> State:
    """Of its half of CLIP."""
    state = network.state_dict()
    found = {
        "class_embedding": state["vision_model.embeddings.class_embedding"],
        "positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "proj": state["visual_projection.weight"].T,
    }
    for leaf in ("weight", "bias"):
        found[f"ln_pre.{leaf}"] = state[f"vision_model.pre_layrnorm.{leaf}"]
        found[f"ln_post.{leaf}"] = state[f"vision_model.post_layernorm.{leaf}"]
    found |= _clip_blocks(state, "vision_model.encoder.layers")
    return {f"embedder.model.visual.{name}": tensor for name, tensor in found.items()}


def _clip_blocks(state: State, theirs: str) -> State:
    found = {}
    index = 0
    while f"{theirs}.{index}.layer_norm1.weight" in state:
        place, block = f"transformer.resblocks.{index}", f"{theirs}.{index}"
        for leaf in ("weight", "bias"):
            parts = [state[f"{block}.self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            found[f"{place}.attn.in_proj_{leaf}"] = torch.cat(parts)
            for new, old in CLIP_BLOCK.items():
                found[f"{place}.{old}.{leaf}"] = state[f"{block}.{new}.{leaf}"]
        index += 1
    return found


def _moved(name: str, places: dict[str, str]) -> str:
    """A tensor's name with its module's place put first; the longest that fits."""
    fitting = [place for place in places if name.startswith(f"{place}.")]
    if not fitting:
        return name
    place = max(fitting, key=len)
    return places[place] + name.removeprefix(place)
