"""A pickle followed instruction by instruction, with stand-ins for all that it names: nothing is imported or called.

Python's own unpicklers trust what they read: a place in the memo allocates a table of that size, a length allocates
that many bytes, a key is hashed however it is nested. Here an instruction costs a constant time and no more memory than
the pickle has bytes, and the number of instructions is bounded.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field

_MAX_INSTRUCTIONS = 500_000  # a tensor of a state dict takes about 25
_SMALL = 65_536  # numbers of a tensor that may be more than its storage has: one number stretched over a short table
STORAGES = {  # PyTorch's storages, in safetensors' words
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}


class Malformed(ValueError):
    """Instructions that PyTorch does not write."""


class Code(ValueError):
    """A name that stands for code; the message is that name."""


@dataclass(frozen=True, eq=False)
class Name:
    """Stands for a class or a function, `module.name`."""

    text: str


@dataclass(eq=False)
class Made:
    """Stands for an object: made by calling `of`; `state`: the attributes that it was given."""

    of: Name
    state: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Storage:
    """Where the numbers of tensors lie: `key` is the record's name in the archive, `count` how many there are."""

    dtype: str
    key: str
    count: int


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


@dataclass
class Found:
    """What a pickle makes: its value, and every storage by key."""

    value: object
    storages: dict[str, Storage]


def follow(pickled: io.BytesIO, allowed: Callable[[str], bool]) -> Found:
    """Follow the pickle that begins where `pickled` stands, and leave it behind its end. allowed: whether it may name
    this `module.name`.

    Raises Code for another name, Malformed, and whatever else cut or damaged bytes lead to (a ValueError, TypeError,
    IndexError, KeyError, AttributeError or OverflowError).
    """
    return _Machine(allowed).run(pickled)


class _Machine:
    def __init__(self, allowed: Callable[[str], bool]) -> None:
        self._allowed = allowed
        self._stack: list = []
        self._below: list[list] = []  # the stacks under the marks
        self._memo: dict[int, object] = {}
        self._storages: dict[str, Storage] = {}
        self._done = 0

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
        """So much was done; a call or an object's attributes go through as many items as they have."""
        self._done += count
        if self._done > _MAX_INSTRUCTIONS:
            raise Malformed(f"more than {_MAX_INSTRUCTIONS:,} instructions, as no file of weights has")

    # --- names and objects

    def _global(self, text: str) -> None:
        self._name(*text.split(" ", 1))

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._name(module, name)
        raise Malformed("pickle protocol 4, which torch.load does not read")

    def _name(self, module: object, name: object) -> None:
        text = f"{_text(module)}.{_text(name)}"
        if not self._allowed(text):
            raise Code(text)
        self._stack.append(Name(text))

    def _inst(self, text: str) -> None:
        raise Code(text.replace(" ", "."))

    def _obj(self) -> None:
        raise Code(next((item.text for item in self._items() if isinstance(item, Name)), "an object"))

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise Malformed("a call of what is no function")
        self._charge(sum(len(argument) for argument in arguments if isinstance(argument, tuple | list | dict)))
        self._stack.append(_called(function, arguments))

    def _newobj(self) -> None:
        self._reduce()

    def _build(self) -> None:
        state, made = self._stack.pop(), self._stack[-1]
        # OrderedDict of state dicts: its attribute _metadata, which holds nothing of the tensors.
        if isinstance(made, Made) and isinstance(state, dict):
            self._charge(len(state))
            made.state.update(state)

    def _binpersid(self) -> None:
        kind, of, key, _, count, *_ = self._stack.pop()
        name = of.text.removeprefix("torch.") if isinstance(of, Name) else ""
        if kind != "storage" or name not in STORAGES or type(count) is not int or not 0 <= count < 2**48:
            raise Malformed("a storage that PyTorch does not write")
        storage = Storage(STORAGES[name], _text(key), count)
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

    _empty_set = _empty_list  # a set's items would be hashed

    def _empty_dict(self) -> None:
        self._stack.append({})

    def _list(self) -> None:
        items = self._items()
        self._stack.append(items)

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

    def _additems(self) -> None:
        self._extend([_key(item) for item in self._items()])

    def _extend(self, items: list) -> None:
        if not isinstance(self._stack[-1], list):
            raise Malformed("an item for what is no list")
        self._stack[-1].extend(items)

    def _setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._store([key, value])

    def _setitems(self) -> None:
        self._store(self._items())

    def _store(self, items: list) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise Malformed("an item for what is no table")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def _pop(self) -> None:
        self._stack.pop()

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
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_GIVEN_BACK = ("torch.Size", "torch._utils._rebuild_parameter")  # calls that return, for us, what they are given


def _called(function: Name, arguments: tuple) -> object:
    if function.text in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        return _tensor(*arguments[:4])
    # Lists and tables of TorchScript go through functions that return what they are given.
    if arguments and (function.text in _GIVEN_BACK or function.text.startswith("torch.jit._pickle.build_")):
        return arguments[0]
    if function.text == "collections.OrderedDict" and not arguments:
        return {}
    if function.text == "collections.OrderedDict":  # with its items: an older Python wrote it so
        return {_key(key): value for key, value in arguments[0]}
    if any(_is_nested(argument) for argument in arguments):  # PyTorch would hash them, however deep they are
        raise Malformed(f"{function.text} of nested values")
    return Made(function)


def _tensor(storage: object, offset: object, shape: object, stride: object) -> Listed:
    if not isinstance(storage, Storage):
        raise Malformed("a tensor without a storage")
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
    """A key of a table: hashed in constant time."""
    if isinstance(key, Name) or _is_plain(key):
        return key
    if isinstance(key, tuple) and len(key) < 16 and all(map(_is_plain, key)):
        return key
    raise Malformed(f"a {type(key).__name__} as the name of something")


def _is_plain(key: object) -> bool:
    return abs(key) < 2**64 if type(key) is int else isinstance(key, str | float | bytes | bool | None)


def _is_nested(value: object) -> bool:
    """Whether a container holds containers."""
    items = value if isinstance(value, tuple | list) else value.values() if isinstance(value, dict) else ()
    return any(isinstance(item, tuple | list | dict) for item in items)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Malformed(f"a {type(value).__name__} as a name")
    return value
