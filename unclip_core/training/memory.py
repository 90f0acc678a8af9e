"""Training with less memory: blocks that keep only what goes into them, and are computed again in the backward pass."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from ..models.layers import ResBlock, SpatialAttention, TransformerBlock

BLOCKS = (ResBlock, SpatialAttention, TransformerBlock)


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
