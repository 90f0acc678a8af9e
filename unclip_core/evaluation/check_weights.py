"""What a network's weights alone say: how many there are, of what size, norms that nobody trained, and matrices that
stand the wrong way round."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Root mean square by kind of tensor, from the smallest to the largest that a trained network has. Matrices and kernels
# are measured times sqrt(fan-in), which is the gain of a signal that passes. Wide: storybook's lie between a tenth of
# the upper and ten times the lower bounds, and what is outside of these was scaled, zeroed or mixed up.
RANGES = {
    "norm scales": (0.01, 50.0),
    "norm shifts": (0.0, 20.0),
    "matrices": (0.01, 20.0),
    "biases": (0.0, 50.0),
    "tables": (1e-4, 100.0),
}
NEITHER = 0.25  # orientations smaller than this say nothing
PROBES = 3  # random directions of the output that an orientation is measured by
_NORMS = (nn.LayerNorm, nn.GroupNorm)
_PROJECTIONS = ("proj", "text_projection")  # of CLIP's towers
_FUSED = {"qkv": 3, "in_proj": 3, "context_kv": 2}  # square matrices below one another, in one tensor


@dataclass(frozen=True)
class Group:
    """The tensors of one kind. odd: names of those outside of the kind's range, with their value."""

    kind: str
    tensors: int
    low: float
    median: float
    high: float
    odd: tuple[tuple[str, float], ...]


def count_numbers(network: nn.Module) -> int:
    """Everything that a file holds of the network: parameters and buffers of floating point."""
    return sum(tensor.numel() for tensor in network.state_dict().values() if tensor.is_floating_point())


def find_infinite(network: nn.Module) -> list[str]:
    """Names of the tensors with a NaN or an infinity in them."""
    return [
        name
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point() and tensor.numel() and not all(map(torch.isfinite, torch.aminmax(tensor)))
    ]


def measure_groups(network: nn.Module) -> list[Group]:
    """The root mean squares of the network's tensors by kind, in the order of RANGES."""
    found: dict[str, list[tuple[str, float]]] = {kind: [] for kind in RANGES}
    for name, tensor, kind in _by_kind(network):
        size = float(tensor.detach().float().square().mean().sqrt())
        fan_in = math.prod(tensor.shape[1:]) if kind == "matrices" else 1
        found[kind].append((name, size * fan_in**0.5))
    groups = []
    for kind, values in found.items():
        if values:
            low, high = RANGES[kind]
            sizes = sorted(value for _, value in values)
            odd = tuple((name, value) for name, value in values if not low <= value <= high)
            groups.append(Group(kind, len(sizes), sizes[0], sizes[len(sizes) // 2], sizes[-1], odd))
    return groups


def _by_kind(network: nn.Module) -> Iterator[tuple[str, Tensor, str]]:
    """(name, tensor, kind) of every parameter that is of a kind."""
    for path, module in network.named_modules():
        for leaf, tensor in module.named_parameters(recurse=False):
            name = f"{path}.{leaf}" if path else leaf
            if isinstance(module, _NORMS):
                yield name, tensor, "norm scales" if leaf == "weight" else "norm shifts"
            elif leaf.endswith("bias"):
                yield name, tensor, "biases"
            elif tensor.ndim > 1 and (_is_matrix(module, leaf)):
                yield name, tensor, "matrices"
            elif tensor.ndim > 0:  # not CLIP's temperature
                yield name, tensor, "tables"


def _is_matrix(module: nn.Module, leaf: str) -> bool:
    """Whether signals are multiplied by the parameter, and do not pick a row of it."""
    layers = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
    return isinstance(module, layers) or leaf in _PROJECTIONS


def find_untrained_norms(network: nn.Module) -> list[str]:
    """Names of the norms whose scales are all exactly 1 and whose shifts are all exactly 0: what a network begins with,
    and what is left in it where a file had no such norm."""
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, _NORMS)
        and module.weight is not None
        and bool((module.weight == 1).all() and (module.bias is None or (module.bias == 0).all()))
    ]


def measure_orientation(
    network: nn.Module, run: Callable[[nn.Module], Sequence[Tensor]], probes: int = PROBES
) -> dict[str, float]:
    """Which way round each square matrix of a trained network stands: a number that turns its sign when the matrix is
    transposed, and that matrices of one role have alike.

    run: outputs of the network for real inputs. What gradient descent added to a matrix W is made of outer products of
    what it was asked for and what it was fed, its gradients. So a gradient G, of the output along a random direction,
    has something in common with W that it has not with its transpose: log(|G W^T|^2 / |G W|^2) + log(|G^T W|^2 / |G^T
    W^T|^2). Above 0 for all of storybook's, which is no law: a matrix that subdues what it is fed most has it below.
    Left out are kernels, which beside a picture do nearly the same when turned, and what gives the output. Of several
    matrices in one tensor each is named, as in `qkv.weight[1]`.
    """
    squares = dict(_squares(network))
    energies = {name: [0.0] * 4 for name in squares}
    generator = torch.Generator().manual_seed(0)
    parameters = {id(part.parameter): part.parameter for part in squares.values()}
    with torch.enable_grad():
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        try:
            for _ in range(probes):
                outputs = [output for output in run(network) if output.requires_grad]
                directions = [torch.randn(o.shape, generator=generator).to(o.device, o.dtype) for o in outputs]
                torch.autograd.backward(outputs, directions)
                for name, part in squares.items():
                    if part.parameter.grad is not None:
                        _add(energies[name], part.weight(), part.of(part.parameter.grad))
                for parameter in parameters.values():
                    parameter.grad = None
        finally:
            for parameter in parameters.values():
                parameter.requires_grad_(False)
                parameter.grad = None
    scores = {}
    for name, (right, wrong, read, misread) in energies.items():
        if min(right, wrong, read, misread) > 0.0:
            scores[name] = math.log(right / wrong) + math.log(read / misread)
    return scores


def find_turned(scores: dict[str, float]) -> list[str]:
    """Names of the matrices that stand the wrong way round by their orientation, the clearest first: those on the other
    side of 0 than their siblings, the matrices of the same role in other blocks, and far from them; and those without
    siblings that are far below 0."""
    distances = {name: _distance(name, scores) for name in scores}
    return sorted((name for name in scores if distances[name] > 1.0), key=distances.__getitem__, reverse=True)


def _distance(name: str, scores: dict[str, float]) -> float:
    """How far a matrix stands on the wrong side, 1 being as far as a right one may."""
    siblings = [scores[other] for other in scores if other != name and _role(other) == _role(name)]
    if len(siblings) < 2:
        return -scores[name]
    middle = statistics.median(siblings)
    spread = 1.5 * statistics.median(abs(score - middle) for score in siblings)  # a standard deviation
    if scores[name] * middle >= 0.0 or abs(scores[name]) < NEITHER:
        return 0.0
    return abs(scores[name] - middle) / max(0.4, 2.5 * spread)


def _role(name: str) -> str:
    """The name without the numbers of blocks and the way through a UNet; which of several in a tensor counts."""
    return re.sub(r"\b(down|mid|up)\b", "", re.sub(r"\.\d+(?=\.)", "", name))


@dataclass(frozen=True)
class _Square:
    """A square matrix inside of a parameter: rows `part` * n to (part + 1) * n."""

    parameter: nn.Parameter
    part: int

    def of(self, tensor: Tensor) -> Tensor:
        """The same rows of a tensor of the parameter's shape: (n, n) float32."""
        side = tensor.shape[1]
        return tensor.detach()[self.part * side : (self.part + 1) * side].reshape(side, side).float()

    def weight(self) -> Tensor:
        """The matrix itself, (n, n)."""
        return self.of(self.parameter)


def _squares(network: nn.Module) -> Iterator[tuple[str, _Square]]:
    for path, module in network.named_modules():
        for leaf, tensor in module.named_parameters(recurse=False):
            name = f"{path}.{leaf}" if path else leaf
            if tensor.ndim < 2 or math.prod(tensor.shape[2:]) > 1 or not _is_matrix(module, leaf):
                continue
            if leaf in _PROJECTIONS or path.rpartition(".")[2] in ("out", "conv_out"):
                continue
            fused = next((count for word, count in _FUSED.items() if word in name), 1)
            if tensor.shape[0] == tensor.shape[1]:
                yield name, _Square(tensor, 0)
            elif tensor.shape[0] == fused * tensor.shape[1]:
                for part in range(fused):
                    yield f"{name}[{part}]", _Square(tensor, part)


def _add(energies: list[float], weight: Tensor, gradient: Tensor) -> None:
    """Add the four energies of one probe; gradients of every probe count the same."""
    gradient = gradient / gradient.norm().clamp(min=1e-30)
    products = gradient @ weight.mT, gradient @ weight, gradient.mT @ weight, gradient.mT @ weight.mT
    for index, product in enumerate(products):
        energies[index] += float(product.square().sum())
