"""Device and dtype choice, and networks that are built on first use."""

import gc
import weakref

import pytest
import torch
from torch import nn

from comfyui_unclip.unclip_core.runtime import placement as devices
from comfyui_unclip.unclip_core.runtime.placement import Placed, cpu_has_bf16, pick_device, pick_dtype, place

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


def test_networks_of_one_run_are_there_together():
    first, second, third = (Placed(Travelling, META, torch.float32) for _ in range(3))
    second()
    first(second)
    assert first.module.journey == ["meta"] and second.module.journey == ["meta"]  # the second never left
    third()
    assert first.module.journey == second.module.journey == ["meta", "cpu"]
    first(second)
    second()
    assert first.module.journey[-1] == "cpu" and second.module.journey[-1] == "meta"


def test_a_network_beside_on_another_device_is_placed_there():
    first, second = Placed(Travelling, META, torch.float32), Placed(Travelling, torch.device("cpu"), torch.float32)
    first(second)
    assert second.loaded and second.module.journey == []


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
    assert manager.brought == [([("adopted", module), ("adopted", second.module)], 7)]
    assert module.journey == [] and second.module.journey == []


def test_weights_are_no_inference_tensors_wherever_they_are_read():
    with torch.inference_mode():
        module = Placed(lambda: nn.Linear(2, 2), torch.device("cpu"), torch.bfloat16)()
    assert not module.weight.is_inference()


def test_on_a_processor_one_large_network_is_in_memory_at_a_time(monkeypatch):
    monkeypatch.setattr(devices, "LARGE_BYTES", 0)
    first, second, third = (Placed(lambda: nn.Linear(2, 2), torch.device("cpu"), torch.float32) for _ in range(3))
    first()
    second()
    assert not first.loaded and second.loaded
    first(second)
    assert first.loaded and second.loaded
    second()  # alone again, but nothing needs the room
    assert first.loaded
    third()
    assert third.loaded and not first.loaded and not second.loaded


def test_dropped_networks_free_their_memory():
    placed = Placed(Travelling, META, torch.float32)
    module = weakref.ref(placed())
    del placed
    gc.collect()
    assert module() is None
