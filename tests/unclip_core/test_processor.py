"""What is chosen for a processor by its features, and that everything still runs where oneDNN cannot help."""

import io
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from comfyui_unclip.unclip_core import processor
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


@pytest.mark.parametrize(("found", "bf16", "products"), TABLE.values(), ids=TABLE)
def test_the_features_decide(found, bf16, products):
    assert computes_fast_in_bf16(found) is bf16
    assert products_beat_fused_attention(found) is products


# What Linux says of a machine, what PyTorch's private checks say of it: the processor.
MACHINES = {
    "Sapphire Rapids": (
        "x86_64",
        "vendor_id\t: GenuineIntel\nflags\t\t: avx2 avx512f avx512_vnni avx_vnni avx512_bf16 amx_bf16 amx_tile\n",
        {"amx_tile", "avx512_bf16", "mkldnn_bf16", "vnni"},
        Processor("intel", amx=True, avx512_bf16=True, onednn_bf16=True, vnni=True),
    ),
    "Cooper Lake": (
        "x86_64",
        "vendor_id\t: GenuineIntel\nflags\t\t: avx2 avx512f avx512_vnni avx512_bf16\n",
        {"avx512_bf16", "mkldnn_bf16", "vnni"},
        Processor("intel", avx512_bf16=True, onednn_bf16=True, vnni=True),
    ),
    "Alder Lake, whose VNNI is of AVX2": (
        "x86_64",
        "vendor_id\t: GenuineIntel\nflags\t\t: avx2 avx_vnni\n",
        set(),
        Processor("intel", vnni=True),
    ),
    "Haswell": ("x86_64", "vendor_id\t: GenuineIntel\nflags\t\t: avx2 fma\n", set(), Processor("intel")),
    "Zen 5": (
        "x86_64",
        "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: avx512f avx512_vnni avx_vnni avx512_bf16\n",
        {"avx512_bf16", "mkldnn_bf16", "vnni"},
        Processor("amd", avx512_bf16=True, onednn_bf16=True, vnni=True),
    ),
    "Graviton 3": (
        "aarch64",
        "processor\t: 0\nFeatures\t: fp asimd asimddp sve i8mm bf16\n",
        {"mkldnn_bf16"},
        Processor("arm", arm_bf16=True, onednn_bf16=True),
    ),
    "Graviton 2": ("aarch64", "Features\t: fp asimd asimddp\n", set(), Processor("arm")),
    "no description": ("x86_64", None, set(), Processor()),
}
CHECKS = {
    (torch.cpu, "_is_amx_tile_supported"): "amx_tile",
    (torch.cpu, "_is_avx512_bf16_supported"): "avx512_bf16",
    (torch.cpu, "_is_vnni_supported"): "vnni",
    (torch.ops.mkldnn, "_is_mkldnn_bf16_supported"): "mkldnn_bf16",
}


@pytest.mark.parametrize(("machine", "cpuinfo", "says", "wanted"), MACHINES.values(), ids=MACHINES)
def test_a_processor_is_known_by_its_description(monkeypatch, machine, cpuinfo, says, wanted):
    def described(path, **options):
        if cpuinfo is None:
            raise FileNotFoundError(path)
        return io.StringIO(cpuinfo)

    monkeypatch.setattr(processor, "open", described, raising=False)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "processor", lambda: "")
    for (owner, name), feature in CHECKS.items():
        monkeypatch.setattr(owner, name, lambda feature=feature: feature in says, raising=False)
    assert this_processor.__wrapped__() == wanted


def test_windows_names_the_vendor_in_one_line(monkeypatch):
    monkeypatch.setattr(processor, "_cpuinfo", lambda field: "")
    monkeypatch.setattr(platform, "processor", lambda: "AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD")
    assert processor._vendor() == "amd"


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
