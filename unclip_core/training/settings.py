"""A TOML file that says, of any network and recipe, what is to be otherwise than in the preset.

    preset = "storybook"

    [clip]
    words = 500                 # size of the vocabulary that is counted from the captions; "bpe": CLIP's own sub-words
    embed_dim = 96

    [decoder.unet]
    channels = 48

    [recipe]                    # of all stages
    batch = 32

    [recipe.decoder]
    steps = 3000

Fields are those of `config.py` and `recipes.Recipe`. "none" stands for a field that is not there.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from ..config import STAGES, from_plain

NONE = "none"


def read_toml(path: Path) -> dict[str, Any]:
    """The file's tables. Raises ValueError naming file and line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"--config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path}: no TOML ({error})") from None


def changed(config: Any, changes: Mapping[str, Any], where: str) -> Any:
    """`config` (a dataclass) with the fields of `changes`, nested as tables are. where: what to call it in errors.

    Raises ValueError naming an unknown field and those there are, or a value of the wrong kind.
    """
    return from_plain(type(config), _merged(config, type(config), changes, where), where)


def _merged(value: Any, kind: Any, changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    if unknown := [name for name in changes if name not in hints]:
        raise ValueError(f"{where}.{unknown[0]}: there is no such field; choose one of {', '.join(hints)}")
    merged = {name: _plain(getattr(value, name)) for name in hints}
    for name, new in changes.items():
        inner, optional = _inner(hints[name])
        if isinstance(new, Mapping):
            if not dataclasses.is_dataclass(inner):
                raise ValueError(f"{where}.{name}: expected a value, got a table")
            old = getattr(value, name)
            merged[name] = _merged(inner() if old is None else old, inner, new, f"{where}.{name}")
        elif new == NONE and optional:
            merged[name] = None
        else:
            merged[name] = new
    return merged


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value


def _inner(hint: Any) -> tuple[Any, bool]:
    """A field's kind, and whether it may be missing."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None)), True
    return hint, False


def to_toml(tables: Mapping[str, Any]) -> str:
    """Nested tables of numbers, texts, truths and lists of them as TOML; None is "none"."""
    return "\n".join(_lines(tables, ())) + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    inner = {name: value for name, value in table.items() if isinstance(value, Mapping)}
    plain = {name: value for name, value in table.items() if name not in inner}
    if path and (plain or not inner):
        yield f"\n[{'.'.join(path)}]"
    for name, value in plain.items():
        yield f"{name} = {_value(value)}"
    for name, value in inner.items():
        yield from _lines(value, (*path, name))


def _value(value: Any) -> str:
    if value is None:
        return _value(NONE)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        escaped = "".join(f"\\u{ord(letter):04x}" if letter < " " or letter in '"\\' else letter for letter in value)
        return f'"{escaped}"'
    return f"[{', '.join(map(_value, value))}]"


def check_tables(tables: Mapping[str, Any], where: str) -> None:
    """Raises ValueError for a table that is no stage's and no recipe's."""
    known = ("preset", "recipe", *STAGES)
    if unknown := [name for name in tables if name not in known]:
        raise ValueError(f"{where}: {unknown[0]!r} is unknown; choose one of {', '.join(known)}")
    if wrong := [name for name in known[1:] if not isinstance(tables.get(name, {}), Mapping)]:
        raise ValueError(f"{where}: {wrong[0]} must be a table, [{wrong[0]}], got {tables[wrong[0]]!r}")
