"""How many rows of a batch fit at once: estimates, deliberately on the high side, of what a forward needs per row."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..config import ARPriorConfig, AutoencoderConfig, PriorConfig, UNetConfig
from ..pages import available_ram

GIB = 2**30
# Beyond this a bigger batch runs no faster on a CPU, while cancelling waits for the end of the step.
CPU_LIMIT = 1 * GIB
UNKNOWN_FREE = 2 * GIB
# What a plain RuntimeError says that means it.
_OUT_OF_MEMORY = (
    "out of memory",  # MPS, and CUDA where another than PyTorch's allocator asked
    "can't allocate memory",  # PyTorch's CPU allocator
    "could not create a primitive",  # oneDNN, and no more than that
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, hipBLAS
    "Invalid buffer size",  # MPS: one tensor larger than Metal allows
    "OUT_OF_DEVICE_MEMORY",  # Intel's driver
)
# Rows of one forward for which other networks should leave the device; more gain little.
ASKED_ROWS = 8


@dataclass(frozen=True)
class Need:
    """Bytes that a run's forwards take on its device. asked: of as many rows as pay; least: of one row."""

    asked: int = 0
    least: int = 0


@dataclass(frozen=True)
class ImageTower:
    """What the memory of an image tower of CLIP's depends on. side: of its pictures, in pixels. layers: of a plain ViT,
    with its tokens and width; 0 for another network."""

    side: int
    layers: int = 0
    tokens: int = 0
    width: int = 0


def free_bytes(device: torch.device) -> int:
    """Memory that weights or a forward on `device` may take, memory cached by PyTorch's allocator included."""
    if device.type in ("cuda", "xpu"):
        module = getattr(torch, device.type)
        free, _ = module.mem_get_info(device)
        return free + module.memory_reserved(device) - module.memory_allocated(device)
    if device.type == "mps":
        torch.mps.empty_cache()  # what its allocator keeps counts as taken
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    if device.type == "cpu":
        return min(_available_ram(), 2 * CPU_LIMIT)
    return UNKNOWN_FREE


def rows_that_fit(device: torch.device, row_bytes: int) -> int:
    """At least 1. Half of what is free: estimates err, and others use the device too."""
    return max(1, free_bytes(device) // 2 // max(1, row_bytes))


def split_rows(batch: int, rows: int) -> list[slice]:
    """Slices of at most `rows` rows, of nearly equal size, that cover `batch`."""
    chunks = math.ceil(batch / rows)
    return [slice(batch * chunk // chunks, batch * (chunk + 1) // chunks) for chunk in range(chunks)]


def halves(rows: slice) -> tuple[slice, slice]:
    """A slice of two rows or more as two of nearly equal size."""
    middle = (rows.start + rows.stop) // 2
    return slice(rows.start, middle), slice(middle, rows.stop)


def bytes_to_ask_for(rows: int, row_bytes: int) -> Need:
    """What is to be kept free for a batch: enough for `rows_that_fit` to find a few rows, or for one at least."""
    return Need(2 * min(rows, ASKED_ROWS) * row_bytes, row_bytes)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the computer or of a device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)


def does_not_fit(who: str, dtype: torch.dtype | None, device: torch.device) -> str:
    """What to tell a user when not even one item fits into the memory of `device`, with the numbers.

    dtype: of the weights; None: float32, because the run needs it.
    """
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        place = f"the GPU ({free / GIB:.1f} of {whole / GIB:.1f} GiB free)"
    elif device.type == "cpu":
        place = f"memory ({_available_ram() / GIB:.1f} GiB free)"
    else:  # how much is free is not known of all of them
        place = f"the GPU ({device})"
    name = "float32, which it needs" if dtype is None else str(dtype).removeprefix("torch.")
    smaller = "choose dtype bf16 or fp16 in Load unCLIP" if dtype == torch.float32 else "choose a smaller model"
    return f"{who}: one item at a time does not fit into {place} with weights in {name}; {smaller}, or close programs"


def unet_row_bytes(config: UNetConfig, height: int, width: int, itemsize: int) -> int:
    """One row of a UNet forward over height x width pixels without gradients: the skips, and the widest level's working
    set."""
    pixels = height * width // config.patch_size**2
    maps = [config.channels * mult * (pixels >> (2 * level)) for level, mult in enumerate(config.channel_mult)]
    skips = sum(size * (config.depth + 1) for size in maps)
    # In and out of a block on the way up: concatenation, two norms, two convolutions; or a transformer's gated MLP.
    working = (16 if config.attention == "cross" else 8) * max(maps)
    samples = 12 * config.out_channels * height * width * 4  # x_t, x_0, their likes and a copy or two, float32
    return (skips + working) * itemsize + samples


def autoencoder_row_bytes(config: AutoencoderConfig, height: int, width: int, itemsize: int) -> int:
    """One picture of height x width, whole, through either half of an autoencoder without gradients."""
    # The widest map is that of the picture's size with the next level's channels, just doubled on the way up. Beside it
    # lie its norm, a copy, and MoVQ's scale and shift of every pixel.
    widest = height * width * config.channels[min(1, len(config.channels) - 1)]
    tokens = height * width // config.factor**2
    return (5 if config.kind == "movq" else 4) * widest * itemsize + 2 * tokens**2 * itemsize


def autoencoder_gradient_bytes(config: AutoencoderConfig, height: int, width: int, itemsize: int) -> int:
    """One picture of height x width decoded so that gradients reach its latents: every map is kept until then."""
    maps = sum(
        2 * channels * (height * width >> (2 * level)) * (config.depth + 1)
        for level, channels in enumerate(config.channels)
    )
    return (7 if config.kind == "movq" else 5) * maps * itemsize


def clip_row_bytes(tokens: int, width: int, itemsize: int) -> int:
    """One row of a transformer of CLIP's without gradients: the working set of a block."""
    return 20 * tokens * width * itemsize


def image_tower_row_bytes(tower: ImageTower, itemsize: int) -> int:
    """One picture through an image tower of CLIP's without gradients."""
    if tower.layers == 0:
        return 60 * tower.side**2 * itemsize
    return clip_row_bytes(tower.tokens, tower.width, itemsize)


def image_tower_gradient_bytes(tower: ImageTower, itemsize: int) -> int:
    """One picture through an image tower so that gradients reach its pixels: every block's maps are kept until then."""
    if tower.layers == 0:
        return 600 * tower.side**2 * itemsize
    return 20 * tower.layers * tower.tokens * tower.width * itemsize


def prior_row_bytes(config: PriorConfig, itemsize: int) -> int:
    """One row of the prior: its cached keys and values, and the forward that makes them."""
    tokens = config.context_length + 4
    return tokens * config.width * (2 * config.depth + 16) * itemsize + config.heads * tokens**2 * 4


def ar_prior_row_bytes(config: ARPriorConfig, itemsize: int) -> int:
    """One row of the autoregressive prior: keys and values twice (a step joins old and new), and its prefix."""
    encoder = config.text_encoder
    text = encoder.context_length if encoder else 77
    wide = text * encoder.width * 16 if encoder else 0
    tokens = text + config.components + 1
    work = config.width * tokens * (4 * config.depth + 16) + wide
    return work * itemsize + (config.heads * text**2 + 8 * config.buckets) * 4


def _available_ram() -> int:
    free = available_ram()
    return UNKNOWN_FREE if free is None else free
