"""Many rows from few words: values from files, tables and sweeps, as rows that are numbered from 1.

    -s prompt=@prompts.txt           one row per line
    --table jobs.csv                 one row per line; the columns are inputs (.csv, .tsv, .json, .jsonl)
    --sweep seed=0..9                every value of a range, or of a list: 1,2,4
All of them together: every table row with every value of every other.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from ..document.graph import Problem, WorkflowError
from .tables import file_lines, read_table

MAX_ROWS = 1_000_000  # more is a slip of the keyboard: seed=0..99999999999


@dataclass(frozen=True)
class Axis:
    """What one input goes through: a name as `-s` takes it, and its values in order."""

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Row:
    """One run of the graph: its number, from 1, and what is set for it besides the values that all rows share."""

    number: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Jobs:
    """All rows of a run, made when asked for. `fixed` are (name, value) for every row."""

    fixed: tuple[tuple[str, Any], ...] = ()
    table: tuple[dict[str, Any], ...] = ()
    axes: tuple[Axis, ...] = ()

    @property
    def many(self) -> bool:
        """Whether this is a batch: a table, a file or a sweep was given, even one of a single row."""
        return bool(self.table or self.axes)

    def __len__(self) -> int:
        return math.prod([max(1, len(self.table)), *(len(axis.values) for axis in self.axes)])

    def __iter__(self) -> Iterator[Row]:
        return map(self.row, range(1, len(self) + 1))

    def places(self, number: int) -> tuple[int, list[int]]:
        """Of row `number` of 1..len its index in the table, and in the values of each axis: the last axis changes
        fastest, the table slowest."""
        rest, indices = number - 1, []
        for axis in reversed(self.axes):
            rest, index = divmod(rest, len(axis.values))
            indices.append(index)
        return rest, indices[::-1]

    def row(self, number: int) -> Row:
        """Row `number` of 1..len."""
        table_index, indices = self.places(number)
        swept = {axis.name: axis.values[index] for axis, index in zip(self.axes, indices, strict=True)}
        # In the order given, the table's columns first: where two names mean one input, the later word counts.
        return Row(number, {**(self.table[table_index] if self.table else {}), **swept})

    def columns(self) -> list[str]:
        """Every name that differs between rows."""
        named = dict.fromkeys(name for row in self.table for name in row)
        return list(named | dict.fromkeys(axis.name for axis in self.axes))

    def fingerprint(self, prompt: Mapping[str, Any]) -> str:
        """16 hex digits that name this work: the API `prompt` before any row's values, and every row's values."""
        plain = {node_id: [node.get("class_type"), node.get("inputs")] for node_id, node in prompt.items()}
        definition = [plain, self.table, [[axis.name, axis.values] for axis in self.axes]]
        text = json.dumps(definition, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def build(assignments: Sequence[str] = (), table: Path | None = None, sweeps: Sequence[str] = ()) -> Jobs:
    """The rows that a command line asks for. Raises WorkflowError with every problem of its words and files."""
    fixed: list[tuple[str, Any]] = []
    axes: list[Axis] = []
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    words = [("-s", word) for word in assignments] + [("--sweep", word) for word in sweeps]
    for option, word in words:
        try:
            name, equals, text = word.partition("=")
            if not (equals and name.strip()):
                raise ValueError(f"has no '='; write {'NAME=VALUE' if option == '-s' else 'NAME=0..9 or NAME=1,2,4'}")
            if option == "-s" and (text.startswith("@@") or not text.startswith("@")):
                fixed.append((name.strip(), text.removeprefix("@")))  # @@ begins a text that begins with @
            else:
                axes.append(Axis(name.strip(), _axis_values(text)))
        except ValueError as error:
            problems.append(Problem("invalid_override", f"{option} {word}: {error}"))
    if table is not None:
        try:
            rows = read_table(table)
        except ValueError as error:
            problems.append(Problem("invalid_override", f"--table {table}: {error}"))
    jobs = Jobs(tuple(fixed), tuple(rows), tuple(axes))
    problems += _clashes(jobs)
    if not problems and len(jobs) > MAX_ROWS:
        problems.append(Problem("invalid_override", f"{len(jobs)} rows are more than {MAX_ROWS}; give fewer values"))
    if problems:
        raise WorkflowError(problems)
    return jobs


def from_values(values: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], sweep: Mapping[str, Any]) -> Jobs:
    """The same from Python: values for all rows, a table, and names with the values that they go through."""
    axes = {name: tuple(entries) for name, entries in sweep.items()}
    if empty := [name for name, entries in axes.items() if not entries]:
        raise ValueError(f"sweep of {', '.join(empty)}: has no values; give at least one")
    jobs = Jobs(tuple(values.items()), tuple(dict(row) for row in rows), tuple(Axis(*item) for item in axes.items()))
    if problems := _clashes(jobs):
        raise WorkflowError(problems)
    return jobs


def _clashes(jobs: Jobs) -> list[Problem]:
    """Names that two options give."""
    fixed = dict.fromkeys(name for name, _ in jobs.fixed)
    columns = dict.fromkeys(name for row in jobs.table for name in row)
    count = Counter([*fixed, *columns, *(axis.name for axis in jobs.axes)])
    twice = [name for name, times in count.items() if times > 1]
    return [Problem("invalid_override", f"{name} is given twice; leave one of them out") for name in twice]


def _axis_values(text: str) -> tuple[Any, ...]:
    """`@file`, a JSON list, or comma-separated values and ranges. Raises ValueError."""
    if text.startswith("@") and not text.startswith("@@"):
        return tuple(file_lines(Path(text[1:])))
    text = text.removeprefix("@") if text.startswith("@@") else text
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            reason = str(error).partition("; use sys")[0]  # Python's advice on long numbers
            raise ValueError(f'begins with [ but is not a JSON list ({reason}); write ["a", "b"]') from None
        if not values or any(isinstance(value, list | dict) or value is None for value in values):
            raise ValueError("takes a list of numbers, texts, true and false, with at least one")
        return tuple(values)
    found = [value for part in text.split(",") for value in _range(part.strip())]
    if not text.strip() or "" in found:
        raise ValueError("has an empty value; write NAME=0..9 or NAME=1,2,4")
    return tuple(found)


def _range(part: str) -> list[str]:
    """`0..9`, `0..1..0.25` or `9..0`, both ends included; anything that has no number beside `..` is itself."""
    pieces = part.split("..")
    numbers = [_number(piece) for piece in pieces]
    if len(pieces) == 1 or not any(number is not None for number in numbers):
        return [part]
    if None in numbers or len(pieces) > 3:
        raise ValueError(f"{part!r} is not a range; write FIRST..LAST or FIRST..LAST..STEP, such as 0..9 or 0..1..0.25")
    first, last = numbers[:2]
    step = abs(numbers[2]) if len(pieces) == 3 else Decimal(1)
    if step == 0:
        raise ValueError(f"{part!r} has a step of 0; give a step above 0")
    count = int(abs(last - first) / step) + 1
    if count > MAX_ROWS:
        raise ValueError(f"{part!r} is {count} values, more than {MAX_ROWS}; give fewer")
    sign = 1 if last >= first else -1
    return [format((first + sign * step * index).normalize(), "f") for index in range(count)]  # exact decimals


def _number(text: str) -> Decimal | None:
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        return None
    return value if value.is_finite() and abs(value.adjusted()) < 40 else None
