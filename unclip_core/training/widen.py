"""Weights of a smaller network as the start of a larger one: other words, a map in a mean's place, more layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..clip.networks import MAP_SIDE
from ..clip.words import WordTokenizer
from ..config import ClipConfig

TOKENS, PROJECTION = "token_embedding.weight", "visual.trunk.head.fc.weight"


def widened(
    state: Mapping[str, Tensor], before: Any, fresh: Mapping[str, Tensor], config: Any, where: str
) -> dict[str, Tensor]:
    """`state`, of a network built from `before`, as weights for one of `config`; fresh: what that one starts with.

    A word takes its row of the token table along, whatever its new id. A projection of a mean becomes one of a map,
    which gives what it gave where all cells are equal; their differences have fresh weights. Layers that `before` lacks
    keep their fresh weights. Raises ValueError for anything else that does not fit; where: what to call `state` in the
    error.
    """
    if type(before) is not type(config):
        raise ValueError(f"{where} is a {type(before).__name__}, not a {type(config).__name__}")
    result = {}
    for name, value in fresh.items():
        old = state.get(name)
        if isinstance(config, ClipConfig) and name == TOKENS and config.vocabulary and before.vocabulary:
            old = _token_table(old, before, value, config)
        elif isinstance(config, ClipConfig) and name == PROJECTION and config.vision.head != before.vision.head:
            if config.vision.head != "map":
                raise ValueError(f"{where} projects a map, which says no more what the mean was; start from a mean")
            old = _map_projection(old, value)
        if old is not None and old.shape != value.shape:
            raise ValueError(
                f"{where}: {name} is {tuple(old.shape)} there and {tuple(value.shape)} here; only new words, a map "
                "in a mean's place and new layers can be added"
            )
        result[name] = value if old is None else old
    if lost := [name for name in state if name not in fresh]:
        raise ValueError(f"{where} has {lost[0]}, for which this network has no place")
    return result


def _map_projection(mean: Tensor, fresh: Tensor) -> Tensor:
    """(D, C) of a mean and fresh (D, C * cells) -> (D, C * cells). Without weights of their own for the cells'
    differences, and with captions that do not tell them apart, no gradient would ever find them."""
    cells = fresh.unflatten(1, (-1, MAP_SIDE**2))
    apart = cells - cells.mean(2, keepdim=True)
    return (mean.float()[:, :, None] / MAP_SIDE**2 + apart).flatten(1)


def _token_table(old: Tensor, before: ClipConfig, fresh: Tensor, config: ClipConfig) -> Tensor:
    """The rows of every word that both know, and of padding, start, unknown and end; fresh ones for the others."""
    theirs, ours = WordTokenizer.of(before), WordTokenizer.of(config)
    table = fresh.clone()
    table[:3] = old[:3].to(table.dtype)
    table[ours.end] = old[theirs.end].to(table.dtype)
    for word, row in ours.ids.items():
        if word in theirs.ids:
            table[row] = old[theirs.ids[word]].to(table.dtype)
    return table
