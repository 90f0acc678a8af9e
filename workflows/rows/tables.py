"""Files of values: a table of runs (CSV, TSV, JSON, JSON lines) and a list, one value per line."""

from __future__ import annotations

import codecs
import csv
import io
import json
from pathlib import Path
from typing import Any

_MAX_BYTES = 1 << 30
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def file_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank. Raises ValueError when it cannot be read or has none."""
    lines = [line for line in _lines(_text(path)) if line.strip()]
    if not lines:
        raise ValueError(f"{path} has no lines; write one value per line")
    return lines


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a table by column. An empty cell or null leaves the graph's own value. Raises ValueError."""
    kind = path.suffix.lower()
    if kind == ".json":
        rows = _objects(_parsed(_text(path), "it"), "row")
    elif kind in (".jsonl", ".ndjson"):
        lines = enumerate(_lines(_text(path)), 1)
        rows = _objects([_parsed(line, f"line {number}") for number, line in lines if line.strip()], "line")
    elif kind in (".csv", ".tsv", ".txt"):
        rows = _csv_rows(_text(path), "\t" if kind == ".tsv" else ",")
    else:
        raise ValueError(f"a table is .csv, .tsv, .json or .jsonl, not {kind or 'a file without an ending'}; rename it")
    if not rows:
        raise ValueError("has no rows; write one row per run")
    return rows


def _lines(text: str) -> list[str]:
    """By line breaks alone: str.splitlines breaks at U+2028 and the like too, which may stand in a caption."""
    return io.StringIO(text, newline=None).read().split("\n")


def _csv_rows(text: str, delimiter: str) -> list[dict[str, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not any(header):
            raise ValueError("has no header; the first line names the inputs")
        if "" in header or len(set(header)) < len(header):
            wrong = next((name for name in header if header.count(name) > 1), "")
            raise ValueError(f"has {'two columns' if wrong else 'a column'} named {wrong!r}; name each column once")
        rows = []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                where = f"line {reader.line_num} has {len(cells)} cells"
                raise ValueError(f"{where}, the header {len(header)}; put texts that hold a {delimiter!r} in quotes")
            rows.append({name: cell for name, cell in zip(header, cells, strict=True) if cell != ""})
    except csv.Error as error:
        raise ValueError(f"is not valid CSV at line {reader.line_num}: {error}; save it again as CSV") from None
    return rows


def _objects(rows: Any, what: str) -> list[dict[str, Any]]:
    if not isinstance(rows, list):
        raise ValueError('is not a list of rows; write [{"prompt": "a red star", "seed": 1}, ...]')
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not row:
            raise ValueError(f'{what} {number} is not an object of inputs; write {{"prompt": "a red star", "seed": 1}}')
        for name, value in row.items():
            if isinstance(value, list | dict):
                raise ValueError(f"{what} {number}, {name}: is a {type(value).__name__}; a cell is a number or a text")
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("; use sys")[0]  # Python's advice on long numbers
        raise ValueError(f"{what} is not valid JSON ({reason}); save it again") from None


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{path} is larger than {_MAX_BYTES >> 30} GB; split it")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}; check the path") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check the path") from None
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path} is not UTF-8 text (line {line}); save it as UTF-8") from None
