"""What is chosen for a processor by its features, and that everything still runs where oneDNN cannot help."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from comfyui_unclip.unclip_core.processor import (
    Processor,
    computes_fast_in_bf16,
    products_beat_fused_attention,
    this_processor,
)
from comfyui_unclip.unclip_core.runtime.device import pick_dtype

ROOT = Path(__file__).parents[2]

# Processor: (auto is bfloat16, long bfloat16 attention is two products)
TABLE = {
    "Intel with AMX": (Processor("intel", amx=True, avx512_bf16=True, onednn_bf16=True), True, False),
    "Intel, AVX512-BF16": (Processor("intel", avx512_bf16=True, onednn_bf16=True), False, True),
    "Intel, AVX-512": (Processor("intel", onednn_bf16=True), False, False),
    "Intel, AVX2": (Processor("intel"), False, False),
    "AMD Zen 4 and 5": (Processor("amd", avx512_bf16=True, onednn_bf16=True), True, True),
    "AMD Zen 3": (Processor("amd"), False, False),
    "AMD Zen 5, oneDNN held to AVX2": (Processor("amd", avx512_bf16=True), False, False),
    "Intel with AMX, oneDNN held to AVX2": (Processor("intel", amx=True, avx512_bf16=True), False, False),
    "ARM with bfloat16": (Processor("arm", arm_bf16=True, onednn_bf16=True), True, False),
    "ARM without": (Processor("arm"), False, False),
    "unknown": (Processor(), False, False),
}


@pytest.mark.parametrize(("processor", "bf16", "products"), TABLE.values(), ids=TABLE)
def test_the_features_decide(processor, bf16, products):
    assert computes_fast_in_bf16(processor) is bf16
    assert products_beat_fused_attention(processor) is products


def test_auto_is_decided_by_this_processor():
    found = str(pick_dtype("auto", "cpu")).removeprefix("torch.")
    assert found == ("bfloat16" if computes_fast_in_bf16(this_processor()) else "float32")


# Frozen layers against plain ones, in a process whose oneDNN or PyTorch is less able.
PROGRAM = """
import copy, sys
import torch
from comfyui_unclip.unclip_core.runtime.device import pick_dtype
from comfyui_unclip.unclip_core.models.kernels import Linear, freeze
from comfyui_unclip.unclip_core.models.layers import ResBlock, attend

dtype = getattr(torch, sys.argv[1])
{damage}
torch.manual_seed(0)
layers = torch.nn.ModuleList(
    [ResBlock(16, 32, 20, scale_shift=shift, groups=4, eps=1e-5, resample=way)
     for shift in (True, False) for way in ("none", "up", "down")] + [Linear(20, 40)]
)
for parameter in layers.parameters():
    torch.nn.init.normal_(parameter, std=0.1)
x, time = torch.randn(2, 16, 8, 8), torch.randn(1, 20)

def run(layers, dtype):
    picture = x.to(dtype).contiguous(memory_format=torch.channels_last)
    *blocks, linear = layers.to(dtype)
    tokens = torch.randn(2, 4, 200, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    attended = attend(tokens, tokens, tokens)
    return [block(picture, time.to(dtype)) for block in blocks] + [linear(time.to(dtype)), attended]

exact = run(copy.deepcopy(layers), torch.float32)  # with gradients: plain operators
freeze(layers)
with torch.no_grad():
    for out, wanted in zip(run(layers, dtype), exact, strict=True):
        error = ((out.float() - wanted).norm() / wanted.norm()).item()
        assert out.dtype == dtype and error < (0.02 if dtype == torch.bfloat16 else 1e-5), error
print(pick_dtype("auto", "cpu"))
"""
DAMAGES = {
    "as it is": "",
    "changed": """
def changed(*given):
    raise RuntimeError("mkldnn::_linear_pointwise() is missing value for argument 'scale'. Declaration: ...")
torch.ops.mkldnn._linear_pointwise = changed
""",
    "lacking": """
class Lacking:
    def __getattr__(self, name):
        raise AttributeError(f"'_OpNamespace' 'mkldnn' object has no attribute {name!r}")
torch.ops.mkldnn = Lacking()
""",
    "wrong sums": """
right = torch.ops.mkldnn._linear_pointwise
torch.ops.mkldnn._linear_pointwise = lambda *given: 2 * right(*given)
""",
}


@pytest.mark.parametrize(
    ("isa", "dtype", "damage"),
    [
        ("AVX2", "bfloat16", "as it is"),
        ("AVX2", "float32", "as it is"),
        ("DEFAULT", "float32", "changed"),
        ("DEFAULT", "bfloat16", "changed"),
        ("DEFAULT", "float32", "lacking"),
        ("DEFAULT", "bfloat16", "lacking"),
        ("DEFAULT", "float32", "wrong sums"),
    ],
)
def test_networks_run_where_onednn_cannot(isa, dtype, damage):
    program = PROGRAM.replace("{damage}", DAMAGES[damage])
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa, "PYTHONPATH": str(ROOT.parent)}
    command = [sys.executable, "-c", program, dtype]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    if isa == "AVX2":
        assert done.stdout.strip() == "torch.float32"
