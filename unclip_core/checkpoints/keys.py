"""Foreign names -> a network's state dict: all names and shapes are checked before the first tensor is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..models.widened import may_stay_half
from ..pages import drop_mapped_pages
from ..texts import first_few
from .header import CheckpointError
from .tensors import Source

KINDS = ("missing", "unexpected", "of the wrong shape")


@dataclass(frozen=True)
class Rule:
    """Where one of our tensors comes from: `sources` of the part, put together along the first dimension.

    transposed: of two-dimensional sources. interleaved: (parts, heads) of a projection whose rows run head by head,
    q, k and v of one head together, where ours hold all heads of q, then of k, then of v.
    """

    part: str
    sources: tuple[str, ...]
    transposed: bool = False
    interleaved: tuple[int, int] | None = None

    def expected_shape(self, target: torch.Size) -> tuple[int, ...]:
        """The shape that each source must have; dimensions of size 1 do not matter."""
        if self.transposed:
            return tuple(reversed(target))
        return (target[0] // len(self.sources), *target[1:]) if len(target) else ()

    @property
    def rebuilds(self) -> bool:
        """Whether the tensor is more than a view of one source."""
        return len(self.sources) > 1 or self.transposed or self.interleaved is not None

    def fill(self, out: Tensor, tensors: list[Tensor]) -> None:
        """Write our tensor, of whatever dtype and layout `out` has, from the sources."""
        for place, tensor in zip(out.chunk(len(tensors)) if out.ndim else (out,), tensors, strict=True):
            if self.transposed:
                tensor = tensor.t()
            if self.interleaved:
                parts, heads = self.interleaved
                tensor = tensor.reshape(heads, parts, -1).transpose(0, 1)
            place.copy_(tensor.reshape(place.shape))


def assemble(
    network: nn.Module,
    rule_of: Callable[[str], Rule],
    parts: Mapping[str, Mapping[str, Source]],
    where: str,
    *,
    ignored: Iterable[str] = (),
    given: Iterable[str] = (),
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
    part: str = "",
    without: str = "",
    check: Callable[[], None] | None = None,
    keep_halves: bool = False,
) -> dict[str, Tensor]:
    """The state dict of `network`, which may be on the meta device, from foreign tensors.

    rule_of: the rule for each of our names. parts: the foreign tensors. where: what to call the source in an error.
    ignored: endings of foreign names that carry no weights. given: our names that the caller fills in. dtype,
    memory_format: what matrices and kernels are brought to, one by one; vectors keep theirs, and what needs no change
    stays mapped. part: a submodule of `network`, whose tensors alone are read, although all are checked; the names are
    its own. without: a submodule whose tensors are not read, although they are checked. check: called before each
    tensor; what it raises ends the reading. keep_halves: large matrices and kernels of half precision are left as they
    are, see `models/widened.py`. Raises CheckpointError naming file, key, expected and found.
    """
    targets = {name: tensor.shape for name, tensor in network.state_dict().items() if name not in tuple(given)}
    rules = {name: rule_of(name) for name in targets}
    if problems := _listed(find_mismatches(targets, rules, parts, tuple(ignored))):
        raise CheckpointError(
            f"{where}: the weights do not fit {type(network).__name__} ({problems}); use the config that belongs to "
            "them, or download the model again"
        )
    exact = tuple(f"{name}." for name, module in network.named_modules() if getattr(module, "keeps_dtype", False))
    state = {}
    for name, shape in targets.items():
        if is_read(name, part, without):
            if check is not None:
                check()
            kind = None if name.startswith(exact) else dtype
            sources = parts[rules[name].part]
            state[name.removeprefix(f"{part}.") if part else name] = _tensor(
                rules[name], shape, sources, kind, memory_format, keep_halves
            )
    return state


def is_read(name: str, part: str, without: str) -> bool:
    """Whether a tensor belongs to submodule `part` ("": any), and not to submodule `without`."""
    return name.startswith(f"{part}." if part else "") and not (without and name.startswith(f"{without}."))


def _tensor(
    rule: Rule,
    shape: torch.Size,
    sources: Mapping[str, Source],
    dtype: torch.dtype | None,
    memory_format: torch.memory_format,
    keep_halves: bool,
) -> Tensor:
    found = [sources[name] for name in rule.sources]
    if keep_halves and may_stay_half(shape, found[0].dtype):
        dtype, memory_format = None, torch.contiguous_format
    wanted = dtype if dtype is not None and found[0].dtype.is_floating_point and len(shape) > 1 else found[0].dtype
    relaid = memory_format == torch.channels_last and len(shape) == 4 and max(shape[2:]) > 1
    tensors = [source.mapped() for source in found]
    if not rule.rebuilds and not relaid and tensors[0].dtype == wanted:
        return tensors[0].reshape(shape)
    # Straight from the mapped file: buffers on the way would leave holes in the heap.
    out = torch.empty(tuple(shape), dtype=wanted, memory_format=memory_format if relaid else torch.contiguous_format)
    rule.fill(out, tensors)
    for tensor in tensors:
        drop_mapped_pages(tensor)
    return out


@dataclass(frozen=True)
class Mismatch:
    """A tensor that does not fit. kind: one of KINDS; expected is None if unexpected, found is None if missing."""

    kind: str
    file: str
    key: str
    expected: tuple[int, ...] | None
    found: tuple[int, ...] | None

    def __str__(self) -> str:
        if self.kind == "missing":
            return f"{self.key} {self.expected} in {self.file}"
        shapes = f" {self.found} instead of {self.expected}" if self.expected is not None else ""
        return f"{self.key}{shapes} in {self.file}"


def find_mismatches(
    targets: Mapping[str, torch.Size],
    rules: Mapping[str, Rule],
    parts: Mapping[str, Mapping[str, Source]],
    ignored: tuple[str, ...],
) -> list[Mismatch]:
    """Every name and shape that does not fit; targets: our names with their shapes."""
    found, used = [], {part: set() for part in parts}
    for name, rule in rules.items():
        sources = parts[rule.part]
        used[rule.part].update(rule.sources)
        expected = rule.expected_shape(targets[name])
        for key in rule.sources:
            if key not in sources:
                found.append(Mismatch("missing", _file(sources, rule.part), key, expected, None))
            elif _squeezed(sources[key].shape) != _squeezed(expected):
                source = sources[key]
                found.append(Mismatch("of the wrong shape", _short(source.path), key, expected, source.shape))
    for part, sources in parts.items():
        for key, source in sources.items():
            if key not in used[part] and not key.endswith(ignored):
                found.append(Mismatch("unexpected", _short(source.path), key, None, source.shape))
    return found


def _listed(mismatches: list[Mismatch]) -> str:
    """The first few of each kind; "" if there are none."""
    kinds = {kind: [str(item) for item in mismatches if item.kind == kind] for kind in KINDS}
    return "; ".join(f"{kind}: {first_few(items)}" for kind, items in kinds.items() if items)


def _short(path: Path) -> str:
    return "/".join(path.parts[-2:])


def _file(sources: Mapping[str, Source], part: str) -> str:
    """What to call the place where a tensor is missing."""
    paths = sorted({_short(source.path) for source in sources.values()})
    return paths[0] if len(paths) == 1 else f"the files of {part}"


def _squeezed(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
