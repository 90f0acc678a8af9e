"""Which half precisions a GPU multiplies fast and right, by its kind: what "auto" picks from.

float16 comes first: it has three bits more than bfloat16 and runs at the same speed. Pictures of storybook's decoder
against float32's: float16 65 to 73 dB, bfloat16 47 to 56. What it lacks is range, so the runs of stages watch for
overflow and go on in the next wider one.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import torch

NAMES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# TU116 and TU117: without tensor cores, float16 comes out as NaN on them.
_BROKEN_FLOAT16 = re.compile(r"\b(GTX 16\d\d|MX[45]50|T\d{3,4}|CMP 30HX)\b")
# GFX names of AMD's that have no bfloat16 instructions: Polaris, Vega, RDNA 1 and 2.
_WITHOUT_BFLOAT16 = re.compile(r"gfx(8|900|902|904|906|909|90c|10)")


def half_precisions(device: torch.device) -> frozenset[str]:
    """Those of NAMES that networks run well in on an accelerator; none where float32 is the better one."""
    if device.type == "cuda" and torch.version.hip:
        return of_amd(torch.cuda.get_device_properties(device).gcnArchName)
    if device.type == "cuda":
        return of_nvidia(torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device))
    if device.type == "xpu":
        return of_intel(
            torch.xpu.get_device_properties(device).has_fp16, getattr(torch.xpu, "is_bf16_supported", lambda: True)()
        )
    return frozenset({"fp16"})


def of_nvidia(capability: tuple[int, int], name: str) -> frozenset[str]:
    """By compute capability and name. Pascal multiplies float16 at 1/64 of float32's rate, but for the P100."""
    if capability >= (8, 0):
        return frozenset(NAMES)
    if capability >= (7, 0):
        return frozenset() if _BROKEN_FLOAT16.search(name) else frozenset({"fp16"})
    return frozenset({"fp16"}) if capability == (6, 0) else frozenset()


def of_amd(arch: str) -> frozenset[str]:
    """By PyTorch's gcnArchName, as gfx1100 or gfx90a:sramecc+:xnack-."""
    return frozenset({"fp16"}) if _WITHOUT_BFLOAT16.match(arch) else frozenset(NAMES)


def of_intel(fp16: bool, bf16: bool) -> frozenset[str]:
    """By what the driver says."""
    return frozenset(name for name, there in (("fp16", fp16), ("bf16", bf16)) if there)


def most_exact(halves: Collection[str]) -> torch.dtype:
    """What watched networks run in: float16, bfloat16, or float32 where there is none."""
    return next((NAMES[name] for name in ("fp16", "bf16") if name in halves), torch.float32)


def widest(halves: Collection[str]) -> torch.dtype:
    """What has float32's range: bfloat16, or float32 itself."""
    return torch.bfloat16 if "bf16" in halves else torch.float32
