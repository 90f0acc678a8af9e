"""Memory estimates, and what is said when memory does not suffice."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from comfyui_unclip.unclip_core.clip.model import Clip
from comfyui_unclip.unclip_core.config import ClipVisionConfig
from comfyui_unclip.unclip_core.presets import KARLO, STORYBOOK
from comfyui_unclip.unclip_core.runtime.estimates import (
    does_not_fit,
    free_bytes,
    is_out_of_memory,
    rows_that_fit,
    split_rows,
    unet_row_bytes,
)


def test_estimates_grow_with_the_picture_and_cover_what_a_forward_allocates():
    big, small = KARLO.upsampler_256.unet, STORYBOOK.upsampler_256.unet
    assert 3.9 < unet_row_bytes(big, 512, 512, 2) / unet_row_bytes(big, 256, 256, 2) < 4.1
    assert unet_row_bytes(small, 256, 256, 2) < unet_row_bytes(big, 256, 256, 2) / 20
    assert rows_that_fit(torch.device("cpu"), 10**15) == 1
    few, many = (rows_that_fit(torch.device("cpu"), size) for size in (2**24, 2**20))
    assert 1 <= few < many <= 1024


def test_what_does_not_fit_is_said_of_the_device_that_it_did_not_fit_into(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *device: (3 * 2**30, 8 * 2**30))
    on = {kind: does_not_fit("Test", torch.bfloat16, torch.device(kind)) for kind in ("cpu", "cuda", "mps")}
    assert "into memory (" in on["cpu"] and "GPU" not in on["cpu"]
    assert "into the GPU (3.0 of 8.0 GiB free)" in on["cuda"]
    assert "into the GPU (mps)" in on["mps"]


def test_split_rows_covers_the_batch_evenly():
    for batch in range(1, 20):
        for rows in range(1, 22):
            slices = split_rows(batch, rows)
            sizes = [s.stop - s.start for s in slices]
            assert [i for s in slices for i in range(s.start, s.stop)] == list(range(batch))
            assert max(sizes) <= rows and max(sizes) - min(sizes) <= 1
            assert len(slices) == -(-batch // rows)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 5.07 GB, other allocations: 1.00 GB)"),
        RuntimeError("Invalid buffer size: 8.21 GB"),
        RuntimeError("Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_what_devices_say_when_memory_runs_out_is_understood(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("Expected all tensors to be on the same device"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    "vision",
    [
        ClipVisionConfig(width=128, layers=3, head_width=32, patch_size=8, image_size=64),
        STORYBOOK.clip.vision,
    ],
    ids=["ViT", "a network of timm's"],
)
def test_the_estimate_of_what_a_gradient_keeps_of_clip_covers_it(vision):
    config = replace(STORYBOOK.clip, vision=vision)
    clip, kept = Clip(config), {}
    weights = {each.untyped_storage().data_ptr() for each in clip.network.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    pixels = torch.rand(2, 3, vision.image_size, vision.image_size, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        embeds = clip.embed_pixels(pixels)
    assert embeds.requires_grad and sum(kept.values()) < 2 * clip.gradient_bytes() < 12 * sum(kept.values())


def test_what_mps_keeps_of_an_earlier_run_is_free(monkeypatch):
    """There PyTorch's allocator keeps what a forward took, and the driver counts it as taken."""
    kept = [3 * 2**30]
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 5 * 2**30)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 2**30 + sum(kept))
    monkeypatch.setattr(torch.mps, "empty_cache", kept.clear)
    assert free_bytes(torch.device("mps")) == 4 * 2**30


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space limits are Linux's")
def test_a_real_limit_ends_in_the_message():
    """Nothing is made up here: the process may have 300 MB more, and the weights alone take 1.2 GB."""
    program = """
import resource
import torch
from comfyui_unclip.unclip_core.runtime.placement import Placed
torch.set_num_threads(1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
try:
    Placed(lambda dtype: torch.nn.Linear(2**15, 10_000), torch.device("cpu"), torch.float32).read()
except MemoryError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "Load unCLIP: one item at a time does not fit" in done.stdout and "GiB free" in done.stdout, done.stderr
