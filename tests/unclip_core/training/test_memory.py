"""What a run says it will need of memory: against what a step takes, and for the published networks at full size."""

import dataclasses
from functools import partial

import pytest
import torch

from comfyui_unclip.unclip_core.models.build import painting_network
from comfyui_unclip.unclip_core.models.lora import attention_layers
from comfyui_unclip.unclip_core.models.prior import PriorNetwork
from comfyui_unclip.unclip_core.presets import KANDINSKY_2_1, KANDINSKY_2_2, KARLO, STABLE_UNCLIP_H, STORYBOOK
from comfyui_unclip.unclip_core.training.ema import Ema
from comfyui_unclip.unclip_core.training.lora import LoraSettings, learning_branches
from comfyui_unclip.unclip_core.training.memory import (
    CONTEXT,
    GB,
    checkpoint_blocks,
    counted_network,
    estimate,
    passing_bytes,
)
from comfyui_unclip.unclip_core.training.precision import computing
from comfyui_unclip.unclip_core.training.recipes import RECIPES, lora_tuning

GPU_LORA = LoraSettings(8, base_dtype=torch.bfloat16)


def small(preset, image_size=16):
    """A preset's decoder with narrow layers."""
    unet = dataclasses.replace(
        preset.unet, channels=32, depth=1, head_channels=16, context_width=32, image_size=image_size
    )
    return dataclasses.replace(preset, clip_dim=24, unet=unet)


PRIOR = dataclasses.replace(KARLO.prior, clip_dim=32, text_width=32, width=128, heads=4, depth=4)
DECODER = dataclasses.replace(small(KARLO.decoder, 32), text_width=32)
SMALL = {"prior": PRIOR, "karlo": DECODER, "kandinsky": small(KANDINSKY_2_2.decoder, 32)}


def learn(config, lora, rows, save_memory):
    """Steps as the loop takes them, with all that they need, from nothing."""
    network = PriorNetwork(config) if config is PRIOR else painting_network(config)
    if lora is not None:
        network = learning_branches(network, lora)
    if save_memory:
        checkpoint_blocks(network)
    trained = [value for value in network.parameters() if value.requires_grad]
    optimiser, average = torch.optim.AdamW(trained, lr=1e-3), Ema(network, 0.9)
    z, t = torch.randn(rows, config.clip_dim), torch.zeros(rows, dtype=torch.long)
    tokens, mask = torch.randn(rows, 77, config.text_width), torch.ones(rows, 77, dtype=torch.bool)
    for step in range(2):  # from the second on Adam has its moments
        optimiser.zero_grad(set_to_none=True)
        with computing(torch.device("cpu"), "fp32"):
            if config is PRIOR:
                output = network(z, t, tokens, z, mask)
            else:
                text = () if config.text == "none" else (tokens, mask, z)
                x_t = torch.randn(rows, config.channels, 32, 32)
                output = network(x_t, t, network.condition(z, *text))
            output.square().mean().backward()
        optimiser.step()
        average.update(network, step)


@pytest.mark.parametrize("save_memory", [False, True])
@pytest.mark.parametrize("lora", [None, LoraSettings(4)])
@pytest.mark.parametrize("kind", list(SMALL))
def test_it_is_what_a_step_takes(kind, lora, save_memory, peak_bytes):
    """Nothing is forgotten, and nothing counted twice: on the processor, in float32."""
    config, rows = SMALL[kind], 4
    clip = dataclasses.replace(STORYBOOK.clip, embed_dim=32, vocabulary=("a",))
    options = {"lora": lora, "dtype": "fp32", "save_memory": save_memory, "fused": False}
    needed = estimate(config, clip, rows, **options)
    measured = peak_bytes(partial(learn, config, lora, rows, save_memory))
    said = needed.weights + needed.learning + needed.fixed + needed.row * rows
    assert 0.95 * measured < said < 1.15 * measured


@pytest.mark.parametrize("stack", [KARLO, KANDINSKY_2_2], ids=lambda stack: stack.name)
@pytest.mark.parametrize("stage", ["prior", "decoder"])
def test_a_lora_of_the_published_networks_fits_into_12_gb(stack, stage):
    """By its own recipe, without further options. Sizes: family.md's counts of diffusers' networks."""
    config, large = getattr(stack, stage), stack is KANDINSKY_2_2
    recipe = lora_tuning(RECIPES[stack.name][stage])
    clip = {"clip_dtype": torch.bfloat16 if large else torch.float32, "towers_apart": large}
    needed = estimate(config, stack.clip, recipe.micro_batch, lora=GPU_LORA, **clip)
    assert needed.total + CONTEXT < 12e9 and f"about {(needed.total + CONTEXT) / GB:.1f} GB" in str(needed)
    with torch.device("meta"):
        network = PriorNetwork(config) if stage == "prior" else painting_network(config)
    base = sum(value.numel() for value in network.parameters())
    learned = sum(8 * (layer.in_features + layer.out_features) for layer in attention_layers(network).values())
    assert needed.weights == 2 * (base + learned) + 2 * learned  # bf16; what learns in float32
    assert needed.learning == 18 * learned
    whole = estimate(config, stack.clip, 1, **clip)  # all its weights: no 12 GB
    assert whole.weights + whole.learning == 22 * base and whole.total > 20e9
    row, rows = (estimate(config, stack.clip, count, lora=GPU_LORA, **clip) for count in (1, 16))
    assert row.row == rows.row and rows.total > row.total
    saved = estimate(config, stack.clip, 16, lora=GPU_LORA, save_memory=True, **clip)
    assert saved.row < 0.4 * rows.row


def test_attention_of_gpus_keeps_no_pairs():
    """96 x 96 latents: 85 million pairs in each of five heads, at the finest level alone."""
    config = STABLE_UNCLIP_H.decoder
    held = []
    for fused in (False, True):
        network = counted_network(config, GPU_LORA, torch.bfloat16, fused=fused)
        held.append(passing_bytes(network, config, 1))
    assert held[1] < 3e9 < 8e9 < held[0]


@pytest.mark.parametrize("stack", [KARLO, KANDINSKY_2_1, KANDINSKY_2_2, STABLE_UNCLIP_H, STORYBOOK])
def test_every_decoder_can_be_counted(stack):
    needed = estimate(stack.decoder, STORYBOOK.clip if stack is STORYBOOK else stack.clip, 2)
    assert needed.total > 0 and (needed.passing > 0) == (stack.decoder.autoencoder is not None)
