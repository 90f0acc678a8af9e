"""What a training step needs of memory, counted before the first one; and training with less of it.

Counted on tensors without contents: the weights, the most that a forward and a backward pass in the dtype of the run
hold at any time, and for what learns a gradient, Adam's two moments and an average.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from ..clip.networks import empty_network
from ..config import ClipConfig, DecoderConfig, PriorConfig
from ..models.build import painting_network
from ..models.decoder import build_autoencoder
from ..models.empty import without_contents
from ..models.layers import ResBlock, SpatialAttention, TransformerBlock
from ..models.lora import Branch, with_branches
from ..models.prior import PriorNetwork
from ..models.spatial_transformer import SpatialTransformer
from ..runtime.device import DTYPES
from ..runtime.estimates import autoencoder_row_bytes
from .frozen import own_text_tower
from .lora import LAYERS, LoraSettings

BLOCKS = (ResBlock, SpatialAttention, SpatialTransformer, TransformerBlock)
COUNTED = ("prior", "decoder")
GB = 1e9
LEARNING = 4 + 8 + 4  # bytes of a number that learns, besides its own: gradient, Adam's two moments, average
# What kernels need besides what they are given and give, and blocks of memory that are larger than what is in them.
SLACK = 1.15
CONTEXT = int(0.6 * GB)  # of CUDA itself


def checkpoint_blocks(network: nn.Module) -> int:
    """Let every block of `network` be computed twice instead of kept; same values, same names. Returns how many.

    Raises ValueError for a network without such blocks.
    """
    blocks = [module for module in network.modules() if isinstance(module, BLOCKS)]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if not blocks and hasattr(network, "set_grad_checkpointing"):  # open_clip's towers
        network.set_grad_checkpointing(True)
        return 1
    if not blocks:
        raise ValueError(f"--save-memory: {type(network).__name__} has no blocks to compute again")
    return len(blocks)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes. weights: of the network, those that stay and those that learn. learning: see LEARNING, and the weights in
    the dtype that is computed in. row: the most that passing one row forward and back holds. rows: computed at once.
    beside: frozen networks that lie there with it. passing: what those hold, at other times than the network. fixed:
    what passing holds however few the rows."""

    weights: int
    learning: int
    row: int
    rows: int
    beside: int
    passing: int = 0
    fixed: int = 0

    @property
    def activations(self) -> int:
        """Of all rows."""
        return int(SLACK * max(self.fixed + self.row * self.rows, self.passing))

    @property
    def total(self) -> int:
        """Of all, without CONTEXT."""
        return self.weights + self.learning + self.activations + self.beside

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "what learns": self.learning,
            f"activations of {self.rows} row{'s' if self.rows > 1 else ''}": self.activations,
            "frozen networks beside it": self.beside,
        }
        said = ", ".join(f"{name} {value / GB:.1f}" for name, value in parts.items())
        return f"about {(self.total + CONTEXT) / GB:.1f} GB ({said})"


def estimate(
    config: PriorConfig | DecoderConfig,
    clip: ClipConfig,
    rows: int,
    *,
    lora: LoraSettings | None = None,
    dtype: str = "bf16",
    save_memory: bool = False,
    clip_dtype: torch.dtype = torch.float32,
    towers_apart: bool = False,
    fused: bool = True,
) -> MemoryEstimate:
    """What a run takes at most.

    rows: of a micro-batch. lora: None where all weights learn. dtype: what is computed in. save_memory: blocks are
    computed again in the backward pass instead of kept. clip: the frozen CLIP, whose weights are kept as `clip_dtype`;
    towers_apart: one of its towers at a time. fused: whether attention keeps no weights of every pair, as on GPUs.
    """
    half = DTYPES[dtype] != torch.float32
    network = counted_network(config, lora, DTYPES[dtype], save_memory=save_memory, fused=fused)
    learned = sum(value.numel() for value in network.parameters() if value.requires_grad)
    stays = sum(value.numel() for value in network.parameters() if not value.requires_grad)
    stored = lora.base_dtype.itemsize if lora is not None else 4
    one, two = (passing_bytes(network, config, count) for count in (1, 2))
    beside, passing = _frozen_bytes(config, clip, clip_dtype, towers_apart)
    learning = learned * (LEARNING + (2 if half else 0))  # autocast keeps a copy in half precision
    return MemoryEstimate(
        stays * stored + learned * 4, learning, two - one, rows, beside, passing, max(0, 2 * one - two)
    )


def counted_network(
    config: PriorConfig | DecoderConfig,
    lora: LoraSettings | None,
    dtype: torch.dtype,
    *,
    save_memory: bool = False,
    fused: bool = False,
) -> nn.Module:
    """The network that is trained, without contents, all of it as `dtype`; its gradients go as soon as they are summed
    up. save_memory, fused: see `estimate`."""
    with without_contents():
        network = PriorNetwork(config) if isinstance(config, PriorConfig) else painting_network(config)
        network = network.to(dtype)
        if lora is not None:
            network.requires_grad_(False)
            branches = {}
            for name, layer in LAYERS[lora.layers](network).items():
                outputs, *inputs = layer.weight.shape
                branches[name] = Branch(torch.empty(lora.rank, *inputs), torch.empty(outputs, lora.rank))
            network = with_branches(network, branches)
            for name, value in network.named_parameters():
                value.requires_grad_(name.endswith((".down", ".up")))
    if fused:
        for block in (module for module in network.modules() if isinstance(module, BLOCKS)):
            block.forward = partial(_fused, block.forward)
    if save_memory:
        checkpoint_blocks(network)
    for value in network.parameters():
        if value.requires_grad:
            value.register_post_accumulate_grad_hook(_forget_gradient)
    return network


def rows_through(config: PriorConfig | DecoderConfig, network: nn.Module, rows: int) -> Tensor:
    """Rows through a network without contents, as the stages' losses pass them."""
    t = torch.zeros(rows, dtype=torch.long, device="meta")
    z = torch.zeros(rows, config.clip_dim, device="meta")
    if isinstance(config, PriorConfig):
        tokens = torch.zeros(rows, config.context_length, config.text_width, device="meta")
        return network(z, t, tokens, z, torch.ones(tokens.shape[:2], dtype=torch.bool, device="meta"))
    text = ()
    if config.text != "none":
        length = _caption_length(config)
        tokens = torch.zeros(rows, length, config.text_width, device="meta")
        mask = torch.ones(rows, length, dtype=torch.bool, device="meta")
        text = (tokens, mask, z, torch.zeros(rows, length, dtype=torch.long, device="meta"))
    dropped = None if config.null_embed == "zero_picture" else torch.zeros(rows, dtype=torch.bool, device="meta")
    side = config.unet.image_size
    x_t = torch.zeros(rows, config.channels, side, side, device="meta")
    return network(x_t, t, network.condition(z, *text, drop_embed=dropped, level=t))


def _caption_length(config: DecoderConfig) -> int:
    for tower in (config.text_encoder, config.text_tower, config.multilingual):
        if tower is not None:
            return tower.context_length
    return ClipConfig.context_length


def passing_bytes(network: nn.Module, config: PriorConfig | DecoderConfig, rows: int) -> int:
    """The most that a forward and a backward pass of a `counted_network` hold at any time: not parameters, nor their
    gradients once they are summed up."""
    held = _Held(network)
    with held:
        rows_through(config, network, rows).float().square().mean().backward()
    return held.most


def _fused(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with _FusedAttention():
        return forward(*args, **kwargs)


def _forget_gradient(value: Tensor) -> None:
    value.grad = None


class _Held(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, while they live. most: at any time."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        own = [value.untyped_storage() for value in (*network.parameters(), *network.buffers())]
        self._seen = weakref.WeakSet(own)
        self._own = own  # alive, so that the set knows them
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor) and (storage := value.untyped_storage()) not in self._seen:
                self._seen.add(storage)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return made

    def _freed(self, size: int) -> None:
        self.now -= size


class _FusedAttention(TorchFunctionMode):
    """Attention as GPUs compute it: without contents PyTorch would take the plain products, which keep every pair."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_flash_attention(*args[:3])[0]
        return func(*args, **(kwargs or {}))


def _frozen_bytes(
    config: PriorConfig | DecoderConfig, clip: ClipConfig, dtype: torch.dtype, apart: bool
) -> tuple[int, int]:
    """(bytes of frozen networks, bytes of their forward passes)."""
    network = empty_network(clip)
    image = 0 if network.visual is None else _parameters(network.visual)
    text = _parameters(network) - image
    largest = (max(image, text) if apart else image + text) * dtype.itemsize
    if isinstance(config, PriorConfig) or config.autoencoder is None:
        return largest, 0
    with without_contents():
        autoencoder = build_autoencoder(config.autoencoder)
        own = own_text_tower(config)
    side = config.unet.image_size * config.autoencoder.factor
    passing = autoencoder_row_bytes(config.autoencoder, side, side, 4)
    if own is not None:
        largest = max(largest, _parameters(own) * dtype.itemsize)
    return largest + 4 * _parameters(autoencoder), passing


def _parameters(network: nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())
