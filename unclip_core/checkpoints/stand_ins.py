"""A pickle followed instruction by instruction, with stand-ins for all that it names: nothing is imported or called.

Python's own unpicklers trust what they read: a place in the memo allocates a table of that size, a length allocates
that many bytes, a key is hashed however it is nested. Here an instruction costs a constant time and no more memory than
the pickle has bytes, and the number of instructions is bounded.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass, field

_MAX_INSTRUCTIONS = 300_000  # a tensor takes about 25, and no model that is read here has 10,000
MAX_NAME = 500  # characters
_SMALL = 65_536  # numbers of a tensor that may be more than its storage has: one number stretched over a short table
_STORAGES = {  # PyTorch's storages: safetensors' word, "" for those whose tensors are not read, and bytes a number
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "DoubleStorage": ("F64", 8),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
    "UntypedStorage": ("", 1),
    "ComplexFloatStorage": ("", 8),
    "ComplexDoubleStorage": ("", 16),
    "QInt8Storage": ("", 1),
    "QUInt8Storage": ("", 1),
    "QInt32Storage": ("", 4),
}
# What everyone has installed, and attacks are made of: a name of these is code unless it is known. Any other package's
# name is a class of what training kept beside the weights (settings, callbacks), or of a TorchScript program.
_EVERYWHERE = {*sys.stdlib_module_names, "torch", "numpy"}
_KNOWN = re.compile(
    r"""collections\.(OrderedDict|defaultdict|deque|Counter)
    |builtins\.(object|dict|list|tuple|set|frozenset|str|bytes|bytearray|bool|int|float|complex|slice|range)
    |_codecs\.encode|copyreg\._reconstructor|functools\.partial|operator\.getitem
    |argparse\.Namespace|types\.(SimpleNamespace|GenericAlias)|typing\.\w+|pathlib\.(_local\.)?(Pure)?(Posix|Windows)?Path
    |datetime\.(datetime|date|time|timedelta|timezone)|decimal\.Decimal|fractions\.Fraction|uuid\.UUID
    |torch\.(Size|device|Tensor|(b?float|complex|bool|q?u?int|per_)\w*|(storage\.)?\w+Storage)
    |torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2|torch\.serialization\._get_layout
    |torch\.(nn|optim)\..+|torch\.torch_version\.TorchVersion|torch\.jit\._pickle\.\w+
    |numpy\.(dtype|ndarray|(bool|u?int|float|complex|str|bytes|datetime|timedelta)\w*|dtypes\.\w+)
    |numpy\._?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)|numpy\.random\._pickle\.\w+""",
    re.VERBOSE,
)


class Malformed(ValueError):
    """Instructions that PyTorch does not write."""


class Code(ValueError):
    """A name that stands for code; the message is that name."""


@dataclass(frozen=True, eq=False)
class Name:
    """Stands for a class or a function, `module.name`."""

    text: str


@dataclass(eq=False, repr=False)  # written out, one that holds others twice would be endless
class Made:
    """Stands for an object: made by calling `of`. state: the attributes that it was given; items: what was stored in
    it, if it is some kind of table."""

    of: Name
    state: dict = field(default_factory=dict)
    items: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Storage:
    """Where the numbers of tensors lie: `key` is the record's name in the archive, `count` how many there are. dtype:
    in safetensors' words, "" for a kind that is not read."""

    dtype: str
    key: str
    count: int
    item_bytes: int

    @property
    def nbytes(self) -> int:
        return self.count * self.item_bytes


@dataclass(frozen=True)
class Listed:
    """Stands for a tensor. offset and stride: in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """In safetensors' words."""
        return self.storage.dtype

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Found:
    """What a pickle makes: its value, and every storage by key."""

    value: object
    storages: dict[str, Storage]


def follow(pickled: io.BytesIO, count: int = 1) -> list[Found]:
    """Follow `count` pickles that lie one behind the other, from where `pickled` stands, and leave it behind the last.

    Raises Code for a name that is code, Malformed for what PyTorch does not write, and whatever else cut or damaged
    bytes lead to.
    """
    done, found = 0, []
    for _ in range(count):
        machine = _Machine(done)
        found.append(machine.run(pickled))
        done = machine.done
    return found


class _Machine:
    """done: the instructions that count as followed already."""

    def __init__(self, done: int) -> None:
        self.done = done
        self._stack: list = []
        self._below: list[list] = []  # the stacks under the marks
        self._memo: dict[int, object] = {}
        self._storages: dict[str, Storage] = {}

    def run(self, pickled: io.BytesIO) -> Found:
        for instruction, argument, _ in pickletools.genops(pickled):
            self._charge(1)
            name = instruction.name
            if name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _WITH_ARGUMENT:
                self._stack.append(argument)
            elif name in ("PROTO", "FRAME", "STOP"):
                continue
            elif (step := getattr(self, f"_{name.lower()}", None)) is None:
                raise Malformed(f"the instruction {name}")
            elif argument is None:
                step()
            else:
                step(argument)
        return Found(self._stack[-1], self._storages)

    def _charge(self, count: int) -> None:
        """So much was done; what goes through a container counts its items, which may be another's of long ago."""
        self.done += count
        if self.done > _MAX_INSTRUCTIONS:
            raise Malformed(f"more than {_MAX_INSTRUCTIONS:,} instructions, as no file of weights has")

    # --- names and objects

    def _global(self, text: str) -> None:
        self._name(*text.split(" ", 1))

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._name(_text(module), _text(name))

    def _name(self, module: str, name: str) -> None:
        # Up to protocol 2 Python 3 writes Python 2's names.
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        text = f"{module}.{name}"
        if text.partition(".")[0] in _EVERYWHERE and not _KNOWN.fullmatch(text):
            raise Code(text)
        self._stack.append(Name(text))

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise Malformed("a call of what is no function")
        self._charge(len(arguments))
        self._charge(sum(len(argument) for argument in arguments if isinstance(argument, tuple | list | dict)))
        self._stack.append(_called(function, arguments))

    _newobj = _reduce

    def _newobj_ex(self) -> None:
        self._stack.pop()  # arguments by name, which nothing of PyTorch's has
        self._reduce()

    def _build(self) -> None:
        state, made = self._stack.pop(), self._stack[-1]
        # What is no stand-in is the OrderedDict of a state dict: its _metadata holds nothing of the tensors.
        if isinstance(made, Made) and isinstance(state, dict):
            self._charge(len(state))
            made.state.update(state)

    def _binpersid(self) -> None:
        reference = self._stack.pop()
        self._charge(len(reference))
        kind, of, *rest = reference
        if kind == "module" and isinstance(of, Name):  # the format before zip archives, with the class's source
            self._stack.append(of)
        elif kind == "storage" and isinstance(of, Name):
            self._storage(of, *rest)
        else:
            raise Malformed("a reference that PyTorch does not write")

    def _storage(self, of: Name, key: object, _: object, count: object, *view: object) -> None:
        if type(count) is not int or not 0 <= count < 2**48:
            raise Malformed("a storage that PyTorch does not write")
        if any(view):  # as PyTorch before 0.4 wrote them
            raise Malformed("a storage that is a part of another")
        dtype, item_bytes = _STORAGES[of.text.rpartition(".")[2]]
        storage = Storage(dtype, _text(key), count, item_bytes)
        if self._storages.setdefault(storage.key, storage) != storage:
            raise Malformed("a storage described twice, differently")
        self._stack.append(storage)

    # --- containers

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _items(self) -> list:
        """What was pushed since the last mark."""
        items, self._stack = self._stack, self._below.pop()
        return items

    def _tuple(self) -> None:
        items = self._items()
        self._stack.append(tuple(items))

    def _tuple1(self) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def _tuple2(self) -> None:
        self._last(2)

    def _tuple3(self) -> None:
        self._last(3)

    def _last(self, count: int) -> None:
        if len(self._stack) < count:
            raise Malformed("a tuple of what is not there")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _empty_list(self) -> None:
        self._stack.append([])

    _empty_set = _empty_list  # a set's items would be hashed; a list of them says as much

    def _empty_dict(self) -> None:
        self._stack.append({})

    def _list(self) -> None:
        items = self._items()
        self._stack.append(items)

    _frozenset = _list

    def _dict(self) -> None:
        items = self._items()
        self._stack.append({})
        self._store(items)

    def _append(self) -> None:
        item = self._stack.pop()
        self._extend([item])

    def _appends(self) -> None:
        items = self._items()
        self._extend(items)

    _additems = _appends

    def _extend(self, items: list) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Made):  # a queue of somebody's, say
            raise Malformed("an item for what is no list")

    def _setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._store([key, value])

    def _setitems(self) -> None:
        self._store(self._items())

    def _store(self, items: list) -> None:
        target = self._stack[-1].items if isinstance(self._stack[-1], Made) else self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise Malformed("an item for what is no table")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def _pop(self) -> None:
        self._stack.pop()

    _pop_mark = _items

    # --- the memo

    def _binput(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    _put = _long_binput = _binput

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _binget(self, place: int) -> None:
        self._stack.append(self._memo[place])

    _get = _long_binget = _binget


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_WITH_ARGUMENT = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINSTRING", "SHORT_BINSTRING", "STRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_GIVEN_BACK = re.compile(  # calls that return, for us, what they are given
    r"torch\.Size|torch\._utils\._rebuild_parameter(_with_state)?|torch\.jit\._pickle\.\w+"
)


def _called(function: Name, arguments: tuple) -> object:
    if function.text in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        return _tensor(function, *arguments[:7])
    if function.text == "torch._tensor._rebuild_from_type_v2":  # a tensor with attributes, or of a subclass
        inner, _, inner_arguments, *_ = arguments
        if not isinstance(inner, Name) or not isinstance(inner_arguments, tuple):
            raise Malformed("a tensor made by what is no function")
        return _called(inner, inner_arguments)
    if arguments and _GIVEN_BACK.fullmatch(function.text):
        return arguments[0]
    if function.text == "collections.OrderedDict":  # with its items: an older Python wrote it so
        return {_key(key): value for key, value in (arguments[0] if arguments else ())}
    return Made(function)


def _tensor(
    function: Name, storage: object, offset: object, shape: object, stride: object, *rest: object
) -> Listed | Made:
    """rest: whether it needs a gradient, its hooks, and in `rest[2]` whether its numbers are negated or conjugated."""
    if not isinstance(storage, Storage):
        raise Malformed("a tensor without a storage")
    if not storage.dtype or any(rest[2:]):
        return Made(function)
    shape, stride = _counts(shape), _counts(stride)
    if type(offset) is not int or offset < 0 or len(shape) != len(stride):
        raise Malformed("a tensor without a place in its storage")
    size = math.prod(shape)
    last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
    if size and last >= storage.count:
        raise Malformed(f"a tensor of shape {shape} in a storage of {storage.count} numbers")
    if size > max(storage.count, _SMALL):
        raise Malformed(f"a tensor of shape {shape}, stretched over {storage.count} numbers")
    return Listed(storage, offset, shape, stride)


def _counts(values: object) -> tuple[int, ...]:
    plain = isinstance(values, tuple | list) and len(values) <= 16
    if not plain or not all(type(value) is int and 0 <= value < 2**48 for value in values):
        raise Malformed("a shape that is no list of sizes")
    return tuple(values)


def _key(key: object) -> object:
    """A key of a table: hashed and compared in constant time."""
    if isinstance(key, Name | Made) or _is_plain(key):
        return key
    if isinstance(key, tuple) and len(key) < 16 and all(map(_is_plain, key)):
        return key
    raise Malformed(f"a {type(key).__name__} as the name of something")


def _is_plain(key: object) -> bool:
    if type(key) is int:
        return -(2**64) < key < 2**64
    return len(key) <= MAX_NAME if isinstance(key, str | bytes) else isinstance(key, float | bool | None)


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise Malformed(f"a {type(value).__name__} as a name")
    return value
