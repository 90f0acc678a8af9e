"""Low-rank side branches (LoRA, Hu et al. 2021): a layer's output plus up(down(x)), the layer's weights as they are.
Those of a convolution are a narrow convolution and a 1x1 one.

`with_branches` leaves a network untouched: it gives another one, whose branched layers share the weights of the first,
packed ones too. So a LoRA is there for the run that holds this second network, and leaves no trace.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DecoderConfig, PriorConfig
from .build import painting_network
from .empty import without_contents
from .integers import IntegerConv2d, IntegerLinear
from .layers import SpatialAttention, TransformerBlock
from .prior import PriorNetwork
from .spatial_transformer import SpatialTransformer

_ATTENTIONS: dict[type[nn.Module], tuple[str, ...]] = {
    TransformerBlock: ("qkv", "proj"),
    SpatialAttention: ("qkv", "context_kv", "proj"),
    SpatialTransformer: ("qkv", "proj_1", "query", "context_kv", "proj_2"),
}


@dataclass(frozen=True, eq=False)
class Branch:
    """up (out, rank) @ down (rank, in), which is added to a linear layer's weight (out, in).

    Of a convolution down is (rank, in, k, k), and the product (out, in, k, k).
    """

    down: Tensor
    up: Tensor


@dataclass(frozen=True, eq=False)
class Lora:
    """The side branches of one network, by the names of its layers.

    name: what messages call it, as the file's name. fingerprint: of the numbers, equal for equal branches.
    """

    name: str
    branches: Mapping[str, Branch]
    fingerprint: str

    @classmethod
    def of(cls, name: str, branches: Mapping[str, Branch]) -> Lora:
        """Branches under a name."""
        digest = hashlib.blake2b(digest_size=8)
        for layer, branch in sorted(branches.items()):
            digest.update(layer.encode())
            for tensor in (branch.down, branch.up):
                digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return cls(name, branches, digest.hexdigest())


@dataclass(frozen=True)
class AppliedLora:
    """A LoRA with its strength, a factor on all its branches."""

    lora: Lora
    strength: float


class _Branched(nn.Module):
    """A layer with a side branch. `layer` is the network's own: what it packs is packed for all."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Parameter(down, requires_grad=False)
        self.up = nn.Parameter(up, requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The layer's own, by which callers find dtype and device."""
        return self.layer.weight


class BranchedLinear(_Branched):
    """A linear layer with a side branch."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return self.layer(x) + F.linear(F.linear(x, self.down), self.up)


class BranchedConv2d(_Branched):
    """A convolution with a side branch."""

    def forward(self, x: Tensor, **added: Tensor | None) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W'). added: what `kernels.Conv2d` takes."""
        return self.layer(x, **added) + self._branch(x)

    def over_doubled(self, x: Tensor, **added: Tensor | None) -> Tensor:
        """See `kernels.Conv2d.over_doubled`."""
        return self.layer.over_doubled(x, **added) + self._branch(F.interpolate(x, scale_factor=2.0, mode="nearest"))

    def _branch(self, x: Tensor) -> Tensor:
        narrow = F.conv2d(x, self.down, stride=self.layer.stride, padding=self.layer.padding)
        return F.conv2d(narrow, self.up[:, :, None, None])


@cache
def layer_shapes(stage: str, config: PriorConfig | DecoderConfig) -> dict[str, tuple[int, ...]]:
    """{name: shape of the weight} of every layer of a stage's network that can have a branch: linear (out, in) or a
    convolution (out, in, k, k). Shared, not to be changed."""
    with without_contents():
        network = PriorNetwork(config) if stage == "prior" else painting_network(config)
    return {name: _shape(layer) for name, layer in all_layers(network).items()}


def all_layers(network: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Every linear layer and every convolution by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}


def _shape(layer: nn.Linear | nn.Conv2d) -> tuple[int, ...]:
    """The weight's, also of a packed layer, which has no weight."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    return layer.out_channels, layer.in_channels, *layer.kernel_size


def attention_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of every attention by name: of queries, keys and values, and of the output."""
    found = {}
    for name, module in network.named_modules():
        for kind, leaves in _ATTENTIONS.items():
            if isinstance(module, kind):
                found |= {
                    f"{name}.{leaf}": getattr(module, leaf) for leaf in leaves if getattr(module, leaf) is not None
                }
    return found


def new_branches(layers: Mapping[str, nn.Linear | nn.Conv2d], rank: int, seed: int = 0) -> dict[str, Branch]:
    """Branches of a rank, to be trained: down is random and up zero, so they change nothing yet (Hu et al. §4.1)."""
    generator = torch.Generator().manual_seed(seed)
    branches = {}
    for name, layer in layers.items():
        rows, *inputs = _shape(layer)
        bound = math.sqrt(3.0 / math.prod(inputs))  # unit variance of down(x) for unit x
        down = torch.empty(rank, *inputs).uniform_(-bound, bound, generator=generator)
        branches[name] = Branch(down, torch.zeros(rows, rank))
    return branches


def joined(applied: Iterable[AppliedLora]) -> dict[str, Branch]:
    """Several LoRAs as one branch a layer, their strengths in it. float32."""
    downs: dict[str, list[Tensor]] = {}
    ups: dict[str, list[Tensor]] = {}
    for each in applied:
        for name, branch in each.lora.branches.items():
            downs.setdefault(name, []).append(branch.down.float())
            ups.setdefault(name, []).append(branch.up.float() * each.strength)
    return {name: Branch(torch.cat(downs[name]), torch.cat(ups[name], dim=1)) for name in downs}


def with_branches(network: nn.Module, branches: Mapping[str, Branch], dtype: torch.dtype | None = None) -> nn.Module:
    """A network with these branches, which shares everything else with `network`, to which nothing happens.

    The branches are moved to their layers' device, and to `dtype`, None for that of their layers. Raises ValueError for
    a name that is no linear layer's and no convolution's.
    """
    device, branched = next(network.parameters()).device, {}
    for name, branch in branches.items():
        layer = _layer(network, name)
        kind, own = BranchedLinear if isinstance(layer, nn.Linear) else BranchedConv2d, dtype or _dtype(layer)
        branched[name] = kind(layer, branch.down.to(device, own), branch.up.to(device, own))
    return _with(network, branched)


def _dtype(layer: nn.Linear | nn.Conv2d) -> torch.dtype:
    """The weight's, also of a packed layer, which has no weight; float32 for a layer in integers."""
    if isinstance(layer, IntegerConv2d | IntegerLinear):
        return torch.float32
    parts = (layer.bias, layer.weight, getattr(layer, "packed", None))
    return next(part.dtype for part in parts if part is not None)


def _layer(network: nn.Module, name: str) -> nn.Linear | nn.Conv2d:
    try:
        layer = network.get_submodule(name)
    except AttributeError:
        layer = None
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise ValueError(f"{type(network).__name__} has no layer {name!r}; the LoRA is of another network")
    return layer


def _with(module: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of the modules on the way to the replacements, by their names below `module`; all others are shared."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    below: dict[str, dict[str, nn.Module]] = {}
    for name, replacement in replacements.items():
        first, _, rest = name.partition(".")
        below.setdefault(first, {})[rest] = replacement
    for first, inner in below.items():
        twin._modules[first] = inner[""] if "" in inner else _with(module._modules[first], inner)
    return twin
