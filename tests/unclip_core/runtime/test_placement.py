"""Networks are built on first use, and which of them are in memory on a processor."""

import gc
import weakref

import pytest
import torch
from torch import nn

from comfyui_unclip.unclip_core.checkpoints.catalog import EMBEDDED, read_stack
from comfyui_unclip.unclip_core.runtime import placement
from comfyui_unclip.unclip_core.runtime.placement import Placed
from comfyui_unclip.unclip_core.stack import load_stack


def test_placed_builds_once_on_first_use():
    built = []
    placed = Placed(lambda dtype: built.append(1) or nn.Linear(2, 2), torch.device("cpu"), torch.bfloat16)
    assert not placed.loaded and not built
    module = placed.on_device()
    assert placed.on_device() is module and built == [1]
    assert not module.training and not module.weight.requires_grad and module.weight.dtype == torch.bfloat16
    placed.unload()
    assert placed.on_device() is not module and built == [1, 1]


def test_read_reads_without_moving_and_conv_weights_lie_in_the_devices_layout():
    placed = Placed(lambda dtype: nn.Conv2d(4, 4, 3), torch.device("cpu"), torch.bfloat16)
    conv = placed.read()
    assert placed.loaded and placed.on_device() is conv
    assert conv.weight.dtype == torch.bfloat16
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_float32_twin_is_built_anew_from_the_file_and_once():
    asked = []

    def build(dtype):
        asked.append(dtype)
        return nn.Linear(2, 2)

    placed = Placed(build, torch.device("cpu"), torch.bfloat16)
    twin = placed.as_float32()
    assert placed.as_float32() is twin and twin.as_float32() is twin and not asked
    assert twin.on_device().weight.dtype == torch.float32 and placed.on_device().weight.dtype == torch.bfloat16
    assert asked == [torch.float32, torch.bfloat16]  # not the rounded weights made float32 again
    placed.unload()
    assert not placed.loaded and not twin.loaded


def test_weights_are_no_inference_tensors_wherever_they_are_read():
    with torch.inference_mode():
        module = Placed(lambda dtype: nn.Linear(2, 2), torch.device("cpu"), torch.bfloat16).on_device()
    assert not module.weight.is_inference()


def test_on_a_processor_one_large_network_is_in_memory_at_a_time(monkeypatch):
    monkeypatch.setattr(placement, "LARGE_BYTES", 30_000)
    first, second, third = (
        Placed(lambda dtype: nn.Linear(99, 99), torch.device("cpu"), torch.float32) for _ in range(3)
    )
    small = Placed(lambda dtype: nn.Linear(9, 9), torch.device("cpu"), torch.float32)
    small.on_device()
    first.on_device()
    second.on_device()
    assert not first.loaded and second.loaded
    first.on_device(second)
    assert first.loaded and second.loaded
    second.on_device()  # alone again, but nothing needs the room
    assert first.loaded
    third.on_device()
    assert third.loaded and not first.loaded and not second.loaded
    assert small.loaded


def test_a_network_that_packed_its_weights_still_counts_as_large(monkeypatch):
    """Stages in turn, again and again: at no time is more than the one in use in memory."""
    stack = load_stack(read_stack(EMBEDDED / "storybook"), "fp32", "cpu")
    text = stack.clip.encode_text(["a big red apple on a night sky"])
    # The prior is 14 MB and the decoder 33; what they do not pack is 1 and 6.
    monkeypatch.setattr(placement, "LARGE_BYTES", 10 * 10**6)
    stack.clip.placed.unload()
    embed, loaded = None, []
    for stage in ("prior", "prior", "decoder", "decoder", "prior", "decoder", "prior", "prior", "decoder"):
        if stage == "prior":
            embed = stack.prior.sample(text, steps=1, guidance_scale=1.0)
        else:
            stack.decoder.sample(embed, text, steps=1, guidance_scale=1.0)
        loaded.append([name for name in ("prior", "decoder") if getattr(stack, name).network.loaded] == [stage])
    assert all(loaded), loaded


@pytest.mark.parametrize("run", ["sample", "invert"])
def test_the_autoencoder_comes_when_the_painting_network_is_gone(tiny_latent_models, monkeypatch, run):
    """A run that still held it would need the memory of both."""
    monkeypatch.setattr(placement, "LARGE_BYTES", 1)
    stack, read, painting, alive = load_stack(read_stack(tiny_latent_models / "tiny-latent"), "fp32", "cpu"), [], [], []
    build = Placed._build_module

    def noted(placed):
        if painting:
            alive.append(painting[-1]() is not None)
        module = build(placed)
        read.append(placed)
        if placed is stack.decoder.network:
            painting.append(weakref.ref(module))
        return module

    embed = stack.prior.sample(stack.clip.encode_text(["a red star"]), seed=1)
    picture = stack.decoder.sample(embed, steps=2)
    stack.decoder.network.unload()
    monkeypatch.setattr(Placed, "_build_module", noted)
    gc.collect()
    gc.disable()
    try:
        if run == "sample":
            stack.decoder.sample(embed, steps=2)
        else:
            stack.decoder.invert(picture, embed, steps=2)
    finally:
        gc.enable()
    assert read[-1] is stack.decoder.autoencoder and alive == [False]


def test_dropped_networks_free_their_memory():
    placed = Placed(lambda dtype: nn.Linear(2, 2), torch.device("meta"), torch.float32)
    module = weakref.ref(placed.on_device())
    del placed
    gc.collect()
    assert module() is None
