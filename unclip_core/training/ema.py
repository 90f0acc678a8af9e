"""An exponential moving average of a network's trained weights, the ones that sample and ship."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Ema:
    """Averages the parameters that are trained. decay: 0..1, eased in over the first steps.

    What is frozen, and buffers, are the network's own: they are neither held twice nor averaged.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.state: dict[str, Tensor] = {name: value.detach().clone() for name, value in _trained(network).items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the average toward the network. The decay grows as (1 + n) / (10 + n), so that early weights fade."""
        keep = min(self.decay, (1 + step) / (10 + step))
        current = _trained(network)
        if self.state:
            torch._foreach_lerp_(list(self.state.values()), [current[name] for name in self.state], 1 - keep)

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved average. Raises ValueError for that of another network."""
        if state.keys() != self.state.keys():
            odd = sorted(state.keys() ^ self.state.keys())
            raise ValueError(f"EMA: the saved average and the trained weights differ in {', '.join(odd[:4])}")
        for name, value in self.state.items():
            value.copy_(state[name])

    @contextlib.contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Inside, the network has the averaged weights; nothing is copied."""
        self._exchange(network)
        try:
            yield
        finally:
            self._exchange(network)

    @torch.no_grad()
    def _exchange(self, network: nn.Module) -> None:
        for name, value in _trained(network).items():
            value.data, self.state[name] = self.state[name], value.data


def _trained(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in network.named_parameters() if value.requires_grad}
