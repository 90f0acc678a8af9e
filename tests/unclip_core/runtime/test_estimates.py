"""Memory estimates, and what is said when memory does not suffice."""

import subprocess
import sys

import pytest
import torch

from comfyui_unclip.unclip_core.presets import KARLO, STORYBOOK
from comfyui_unclip.unclip_core.runtime.estimates import does_not_fit, rows_that_fit, unet_row_bytes


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
