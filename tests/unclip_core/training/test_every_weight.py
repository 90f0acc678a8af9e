"""In every step every weight that learns gets a gradient: processes that share gradients end where one is missing."""

from dataclasses import replace

import pytest
import torch

from comfyui_unclip.unclip_core.presets import (
    KANDINSKY_2_1,
    KANDINSKY_2_2,
    KARLO,
    PAPER,
    STABLE_UNCLIP_H,
    STORYBOOK,
)
from comfyui_unclip.unclip_core.training.frozen import Frozen
from comfyui_unclip.unclip_core.training.lora import LoraSettings, learning_branches
from comfyui_unclip.unclip_core.training.memory import checkpoint_blocks
from comfyui_unclip.unclip_core.training.recipes import Recipe
from comfyui_unclip.unclip_core.training.task_decoder import DecoderTask
from comfyui_unclip.unclip_core.training.task_prior import PriorTask
from comfyui_unclip.unclip_core.types import TextEncoding

DIM, WIDTH, LENGTH, ROWS = 24, 16, 7, 2
RECIPE = Recipe(steps=1, batch=ROWS, lr=1.0)
PRIORS = {stack.name: stack.prior for stack in (PAPER, KARLO, KANDINSKY_2_1, STORYBOOK)}
DECODERS = {stack.name: stack.decoder for stack in (PAPER, KARLO, KANDINSKY_2_1, KANDINSKY_2_2, STABLE_UNCLIP_H)}


@pytest.fixture(params=["whole", "lora", "lora of all layers"])
def learning(request):
    """How much of a network learns, and how its forward pass is kept."""

    def prepare(network):
        if request.param == "whole":
            return network
        layers = "all" if request.param.endswith("layers") else "attention"
        network = learning_branches(network, LoraSettings(2, layers))
        checkpoint_blocks(network)
        return network

    return prepare


def encoded(length=LENGTH):
    mask = torch.arange(length)[None] < torch.tensor([[length], [3]])
    ids = torch.ones(ROWS, length, dtype=torch.long)
    return TextEncoding(torch.randn(ROWS, length, WIDTH), torch.randn(ROWS, DIM), mask, ids, "some", ())


def without_gradient(task, network, batch):
    """The names of the weights that learn and got none from this batch."""
    network.train().zero_grad(set_to_none=True)
    task.loss(network, batch)[0].backward()
    learn = {name: value for name, value in network.named_parameters() if value.requires_grad}
    assert learn
    return [name for name, value in learn.items() if value.grad is None]


drops = pytest.mark.parametrize("dropped", [(False, False), (True, True), (True, False)])


@drops
@pytest.mark.parametrize("family", PRIORS)
def test_of_a_prior(family, dropped, learning, tiny_clip):
    sizes = {"clip_dim": DIM, "text_width": WIDTH, "context_length": LENGTH, "width": 32, "depth": 2, "heads": 2}
    config = replace(PRIORS[family], **sizes)
    task = PriorTask(config, None, tiny_clip, torch.randn(8, DIM), RECIPE)
    null = encoded().take(slice(1)) if config.null_text == "empty_caption" else None
    batch = {
        "z": torch.randn(ROWS, DIM),
        "t": torch.tensor([0, 900]),
        "noise": torch.randn(ROWS, DIM),
        "drop": torch.tensor(dropped),
        "longest": LENGTH,
        "text": encoded(),
        "null": null,
    }
    assert without_gradient(task, learning(task.build()), batch) == []


@drops
@pytest.mark.parametrize("family", DECODERS)
def test_of_a_decoder(family, dropped, learning, tiny_clip):
    config = DECODERS[family]
    narrow = {"channels": 32, "depth": 1, "head_channels": 16, "image_size": 16, "attention_resolutions": (16, 8)}
    unet = replace(config.unet, **narrow, context_width=WIDTH if family == STABLE_UNCLIP_H.name else 32)
    encoder = config.text_encoder
    if encoder is not None:
        encoder = replace(encoder, width=32, depth=1, heads=2, context_length=LENGTH, vocabulary_size=9)
    other = {} if config.multilingual is None else {"multilingual": replace(config.multilingual, width=WIDTH)}
    if config.text_tower is not None:
        other = {"text_tower": replace(config.text_tower, width=WIDTH)}
    config = replace(config, clip_dim=DIM, text_width=WIDTH, unet=unet, text_encoder=encoder, **other)
    frozen = Frozen(null_embed=torch.randn(1, DIM), own_text=lambda: None, units=(torch.zeros(DIM), torch.ones(DIM)))
    task = DecoderTask(config, None, tiny_clip, torch.randn(8, DIM), RECIPE, frozen)
    grid = (ROWS, config.channels, 16, 16)
    drop = torch.tensor(dropped)
    batch = {
        "x_0": torch.randn(grid),
        "z": torch.randn(ROWS, DIM),
        "text": None if config.text == "none" else encoded(),
        "t": torch.tensor([0, 900]),
        "noise": torch.randn(grid),
        "drop_embed": drop,
        "drop_text": drop if config.null_text == "learned" and config.text != "none" else None,
    }
    if config.embed_noise is not None:
        batch |= {"level": torch.tensor([3, 4]), "embed_noise": torch.randn(ROWS, DIM)}
    assert without_gradient(task, learning(task.build()), batch) == []
