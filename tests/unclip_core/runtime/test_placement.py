"""Device and dtype choice, and networks that are built on first use."""

import gc
import weakref

import pytest
import torch
from torch import nn

from comfyui_unclip.unclip_core.checkpoints.catalog import EMBEDDED, read_stack
from comfyui_unclip.unclip_core.runtime import placement as devices
from comfyui_unclip.unclip_core.runtime.device import pick_device, pick_dtype
from comfyui_unclip.unclip_core.runtime.estimates import does_not_fit
from comfyui_unclip.unclip_core.runtime.placement import Placed, place
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.stages import finish

META = torch.device("meta")  # stands in for an accelerator: moving there needs no hardware


def test_pick_device():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device(META) == META
    assert (pick_device().type == "cuda") == torch.cuda.is_available()
    assert (torch.ones(2, device=pick_device()) + 1).sum() == 4  # whatever it picked works


def test_pick_dtype():
    assert pick_dtype("fp32", "cpu") == torch.float32
    assert pick_dtype("bf16", "cpu") == torch.bfloat16
    assert pick_dtype("fp16", "mps") == torch.float16
    assert pick_dtype(torch.float64, "cpu") == torch.float64
    assert pick_dtype("auto", "mps") == torch.float16
    with pytest.raises(ValueError, match="dtype 'half' is unknown; choose one of auto, fp32, bf16, fp16"):
        pick_dtype("half", "cpu")


def test_place_sets_dtype_and_layout():
    conv = place(nn.Conv2d(4, 4, 3), "cpu", torch.bfloat16)
    assert conv.weight.dtype == torch.bfloat16
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_placed_builds_once_on_first_use():
    built = []
    placed = Placed(lambda dtype: built.append(1) or nn.Linear(2, 2), torch.device("cpu"), torch.bfloat16)
    assert not placed.loaded and not built
    module = placed()
    assert placed() is module and built == [1]
    assert not module.training and not module.weight.requires_grad and module.weight.dtype == torch.bfloat16
    placed.unload()
    assert placed() is not module and built == [1, 1]


class Travelling(nn.Linear):
    """Remembers where it was sent: weights cannot come back from the meta device."""

    def __init__(self):
        super().__init__(2, 2)
        self.journey = []

    def to(self, *args, **kwargs):
        if args:
            self.journey.append(torch.device(args[0]).type)
            return self
        return super().to(*args, **kwargs)


def test_only_one_network_is_on_the_device():
    first, second = (Placed(Travelling, META, torch.float32) for _ in range(2))
    first()
    first()
    assert first().journey == ["meta"]  # no move when it is there already
    second()
    assert first._module.journey == ["meta", "cpu"] and second().journey == ["meta"]
    first()
    assert second._module.journey == ["meta", "cpu"]
    first.offload()
    assert first().journey == ["meta", "cpu", "meta", "cpu", "meta"]
    first.unload()


def test_networks_of_one_run_are_there_together():
    first, second, third = (Placed(Travelling, META, torch.float32) for _ in range(3))
    second()
    first(second)
    assert first.read().journey == ["meta"] and second.read().journey == ["meta"]  # the second never left
    third()
    assert first.read().journey == second.read().journey == ["meta", "cpu"]
    first(second)
    second()
    assert first.read().journey[-1] == "cpu" and second.read().journey[-1] == "meta"


def test_a_network_beside_on_another_device_is_placed_there():
    first, second = Placed(Travelling, META, torch.float32), Placed(Travelling, torch.device("cpu"), torch.float32)
    first(second)
    assert second.loaded and second.read().journey == []


class Manager:
    def __init__(self):
        self.brought = []

    def adopt(self, module):
        return ("adopted", module)

    def bring(self, adopted, need):
        self.brought.append((adopted, need))


def test_a_manager_replaces_that_rule():
    manager = Manager()
    first, second = (Placed(Travelling, META, torch.float32, manager) for _ in range(2))
    module = first(second, need=7)
    assert manager.brought == [([("adopted", module), ("adopted", second.read())], 7)]
    assert module.journey == [] and second.read().journey == []


def test_weights_are_no_inference_tensors_wherever_they_are_read():
    with torch.inference_mode():
        module = Placed(lambda dtype: nn.Linear(2, 2), torch.device("cpu"), torch.bfloat16)()
    assert not module.weight.is_inference()


def test_on_a_processor_one_large_network_is_in_memory_at_a_time(monkeypatch):
    monkeypatch.setattr(devices, "LARGE_BYTES", 30_000)
    first, second, third = (
        Placed(lambda dtype: nn.Linear(99, 99), torch.device("cpu"), torch.float32) for _ in range(3)
    )
    small = Placed(lambda dtype: nn.Linear(9, 9), torch.device("cpu"), torch.float32)
    small()
    first()
    second()
    assert not first.loaded and second.loaded
    first(second)
    assert first.loaded and second.loaded
    second()  # alone again, but nothing needs the room
    assert first.loaded
    third()
    assert third.loaded and not first.loaded and not second.loaded
    assert small.loaded


def test_a_network_that_packed_its_weights_still_counts_as_large(monkeypatch):
    """Stages in turn, again and again: at no time is more than the one in use in memory."""
    stack = load_stack(read_stack(EMBEDDED / "storybook"), "fp32", "cpu")
    text = stack.clip.encode_text(["a big red apple on a night sky"])
    # The prior is 14 MB and the decoder 33; what they do not pack is 1 and 6.
    monkeypatch.setattr(devices, "LARGE_BYTES", 10 * 10**6)
    stack.clip.placed.unload()
    embed, loaded = None, []
    for stage in ("prior", "prior", "decoder", "decoder", "prior", "decoder", "prior", "prior", "decoder"):
        if stage == "prior":
            embed = stack.prior.sample(text, steps=1, guidance_scale=1.0)
        else:
            stack.decoder.sample(embed, text, steps=1, guidance_scale=1.0)
        loaded.append([name for name in ("prior", "decoder") if stack[name].network.loaded] == [stage])
    assert all(loaded), loaded


def test_what_does_not_fit_is_said_of_the_device_that_it_did_not_fit_into(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *device: (3 * 2**30, 8 * 2**30))
    on = {kind: does_not_fit("Test", torch.bfloat16, torch.device(kind)) for kind in ("cpu", "cuda", "mps")}
    assert "into memory (" in on["cpu"] and "GPU" not in on["cpu"]
    assert "into the GPU (3.0 of 8.0 GiB free)" in on["cuda"]
    assert "into the GPU (mps)" in on["mps"]


def test_dropped_networks_free_their_memory():
    placed = Placed(Travelling, META, torch.float32)
    module = weakref.ref(placed())
    del placed
    gc.collect()
    assert module() is None
