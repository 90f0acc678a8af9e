"""The part of a network that a run changes: what checkpoints hold where most of the weights stay as they are."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..checkpoints.header import CheckpointError


def learned_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict without frozen parameters; all of it where there are none."""
    frozen = {name for name, value in network.named_parameters() if not value.requires_grad}
    return {name: value for name, value in network.state_dict().items() if name not in frozen}


def load_learned(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Put in what `learned_state` gave. Raises CheckpointError for the state of another network, or of other layers."""
    expected = {name: value.shape for name, value in learned_state(network).items()}
    found = {name: value.shape for name, value in state.items()}
    if expected != found:
        odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise CheckpointError(
            f"{where}: the weights do not fit {type(network).__name__} (first in {odd[0]}); start anew"
        )
    network.load_state_dict(dict(state), strict=False)
