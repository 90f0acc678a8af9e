"""How fast this machine multiplies, by dtype: the lines under a benchmark's header, and the check of the table in
unclip_core/processor.py.

    python tests/benchmarks/kernels.py
"""

from __future__ import annotations

import time

SECONDS = 0.5  # of each number


def rates(device: str = "cpu") -> str:
    """Markdown: GFLOP/s of a matrix product and of a 3x3 convolution, of the sizes that networks here have, in each
    dtype. The best of many runs of each: others may use the machine too."""
    import torch
    import torch.nn.functional as F

    where = torch.device(device)
    lines = ["| GFLOP/s | matrix product 1024 x 1280 x 1280 | convolution 3x3, 320 channels, 64 px |", "|---|---|---|"]
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            a, b = (torch.randn(*shape, device=where).to(dtype) for shape in ((1024, 1280), (1280, 1280)))
            x, kernel = (torch.randn(*shape, device=where).to(dtype) for shape in ((1, 320, 64, 64), (320, 320, 3, 3)))
            x, kernel = (each.contiguous(memory_format=torch.channels_last) for each in (x, kernel))
            found = [
                2 * 1024 * 1280 * 1280 / _best(lambda a=a, b=b: F.linear(a, b), where),
                2 * 9 * 320 * 320 * 64 * 64 / _best(lambda x=x, k=kernel: F.conv2d(x, k, padding=1), where),
            ]
            lines.append(f"| {str(dtype).removeprefix('torch.')} | {found[0] / 1e9:.0f} | {found[1] / 1e9:.0f} |")
    return "\n".join(lines)


def _best(run, device) -> float:
    """Seconds of the fastest of the runs that fit into SECONDS, after one that counts not."""
    import torch

    wait = getattr(getattr(torch, device.type, None), "synchronize", lambda: None)
    run()
    wait()
    found, begin = [], time.perf_counter()
    while not found or time.perf_counter() - begin < SECONDS:
        start = time.perf_counter()
        run()
        wait()
        found.append(time.perf_counter() - start)
    return min(found)


if __name__ == "__main__":
    from comfyui_unclip.unclip_core.processor import this_processor

    print(f"{this_processor()}\n\n{rates()}")
