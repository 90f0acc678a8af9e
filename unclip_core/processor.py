"""What the processor computes well, decided by its features and never by timing: one machine gives one picture."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

VENDORS = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}


@dataclass(frozen=True)
class Processor:
    """The features of a processor that decide between float32, bfloat16 and int8."""

    vendor: str = ""  # "intel", "amd", "arm", or "" for all others
    amx: bool = False  # multiplies tiles of bfloat16
    avx512_bf16: bool = False
    arm_bf16: bool = False
    onednn_bf16: bool = False  # whether PyTorch's oneDNN runs bfloat16 here; ONEDNN_MAX_CPU_ISA may forbid it
    vnni: bool = False  # adds products of bytes up without cutting them off


def computes_fast_in_bf16(processor: Processor) -> bool:
    """Whether networks run faster in bfloat16 than in float32.

    GFLOP/s of a 3x3 convolution, 320 channels at 64 px, on two cores, float32 / bfloat16:
    Intel with AMX 334 / 3769; AMD Zen 5 with AVX512-BF16 up to 989 in bfloat16; Intel with AVX512-BF16 but without AMX
    245 / 151, a loss. Where the instructions are missing bfloat16 is emulated, many times slower.
    """
    if not processor.onednn_bf16:
        return False
    return processor.amx or processor.arm_bf16 or (processor.vendor == "amd" and processor.avx512_bf16)


def products_beat_fused_attention(processor: Processor) -> bool:
    """Whether two matrix products beat PyTorch's fused attention in bfloat16.

    Milliseconds on one core of an AMD EPYC (Zen 5), fused / products, for (batch, heads, queries, keys, channels):

    | shape                   | bfloat16    | float32     | bfloat16 held to AVX2 |
    |-------------------------|-------------|-------------|-----------------------|
    | 2, 32, 81, 81, 64       | 2.1 / 1.3   | 1.9 / 1.9   | 2.4 / 26              |
    | 2, 4, 128, 138, 64      | 0.61 / 0.39 | 0.56 / 0.55 | 0.70 / 8.8            |
    | 2, 8, 256, 337, 64      | 5.1 / 3.1   | 4.8 / 5.4   | 5.2 / 88              |
    | 2, 10, 1024, 1105, 64   | 76 / 37     | 72 / 182    | 85 / 1868             |

    So they win where plain products have bfloat16 instructions; with AMX the fused kernel has them too, and wins.
    """
    return processor.onednn_bf16 and processor.avx512_bf16 and not processor.amx


@cache
def this_processor() -> Processor:
    """The features of the processor that runs this."""
    arm = platform.machine().lower() in ("arm64", "aarch64")
    return Processor(
        vendor="arm" if arm else _vendor(),
        amx=_ask(getattr(torch.cpu, "_is_amx_tile_supported", None)),
        avx512_bf16=_ask(getattr(torch.cpu, "_is_avx512_bf16_supported", None)),
        arm_bf16=arm and "bf16" in _cpuinfo("Features").split(),
        onednn_bf16=_ask(getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)),
        vnni=_ask(getattr(torch.cpu, "_is_vnni_supported", None)) or "avx_vnni" in _cpuinfo("flags").split(),
    )


def _ask(check: Callable[[], bool] | None) -> bool:
    """The answer of a private check of PyTorch's; no where this PyTorch has none."""
    try:
        return check is not None and bool(check())
    except (RuntimeError, NotImplementedError):
        return False


def _vendor() -> str:
    # Windows names the vendor at the end of platform.processor().
    said = _cpuinfo("vendor_id") or platform.processor().rpartition(",")[2].strip()
    return VENDORS.get(said, "")


def _cpuinfo(field: str) -> str:
    """A field of Linux's description of its first processor; "" where there is none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == field:
                    return value.strip()
    except OSError:
        pass
    return ""
