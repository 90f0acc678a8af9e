"""Device and dtype choice, and networks that are built on first use."""

import gc
import weakref

import pytest
import torch
from torch import nn

from comfyui_unclip.unclip_core import device as devices
from comfyui_unclip.unclip_core.device import Placed, cpu_has_bf16, pick_device, pick_dtype, place

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
    assert pick_dtype("auto", "cpu") == (torch.bfloat16 if cpu_has_bf16() else torch.float32)
    assert pick_dtype("auto", "mps") == torch.float16
    with pytest.raises(ValueError, match="dtype 'half' is unknown; choose one of auto, fp32, bf16, fp16"):
        pick_dtype("half", "cpu")


def test_auto_without_bf16_hardware_is_float32(monkeypatch):
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: False)
    assert pick_dtype("auto", "cpu") == torch.float32


def test_place_sets_dtype_and_layout():
    conv = place(nn.Conv2d(4, 4, 3), "cpu", torch.bfloat16)
    assert conv.weight.dtype == torch.bfloat16
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_placed_builds_once_on_first_use():
    built = []
    placed = Placed(lambda: built.append(1) or nn.Linear(2, 2), torch.device("cpu"), torch.bfloat16)
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


def test_a_manager_replaces_that_rule():
    seen = []
    placed = Placed(Travelling, META, torch.float32, on_place=seen.append)
    assert [placed(), placed()] == seen
    assert seen[0].journey == []


def test_dropped_networks_free_their_memory():
    placed = Placed(Travelling, META, torch.float32)
    module = weakref.ref(placed())
    del placed
    gc.collect()
    assert module() is None
