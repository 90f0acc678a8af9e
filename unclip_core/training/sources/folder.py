"""A folder of pictures: captions in texts of the same name, or in metadata.jsonl or metadata.csv.

`0001.jpg` and `0001.txt` (suffixes in any case; a caption a line). A metadata file speaks for the pictures that it
names, relative to itself: {"file_name": "0001.jpg", "text": "a red star"}, as Hugging Face's imagefolder has it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from .index import PICTURES, UNREADABLE, CaptionFile, Index, Sample, Span, captions_of, described

TEXTS = (".txt", ".caption")
METADATA = ("metadata.jsonl", "metadata.csv")
FILE_KEYS = ("file_name", "file", "filename", "image", "path")


def index_folder(folder: Path) -> Index:
    """Every picture below `folder`, by name; names that begin with a dot are not looked at."""
    everything = [
        path for path in sorted(folder.rglob("*")) if not _hidden(path.relative_to(folder)) and path.is_file()
    ]
    pictures = [path for path in everything if path.suffix.lower() in PICTURES]
    skipped = [
        (path.relative_to(folder).as_posix(), f"{path.suffix} is not read; convert it to PNG or JPEG")
        for path in everything
        if path.suffix.lower() in UNREADABLE
    ]
    texts: dict[tuple[Path, str], Path] = {}
    for path in everything:
        if path.suffix.lower() in TEXTS:
            texts.setdefault((path.parent, path.stem), path)
    said: dict[Path, tuple[str, ...]] = {}
    metadata = [path for path in everything if path.name.lower() in METADATA]
    known = set(pictures)
    for path in metadata:
        for line, row in _rows(path, folder, skipped):
            where = f"{path.relative_to(folder).as_posix()}, line {line}"
            try:
                named = _picture_of(row, path.parent)
                captions = captions_of(row)
            except ValueError as error:
                skipped.append((where, str(error)))
                continue
            if named in known:
                said[named] = said.get(named, ()) + captions
            else:
                skipped.append((where, f"there is no picture {named.name!r} beside it"))
    samples = []
    for path in pictures:
        captions: tuple[str, ...] | CaptionFile | None = said.get(path)
        if captions is None and (text := texts.get((path.parent, path.stem))):
            captions = CaptionFile(Span(text))
        samples.append(Sample(path.relative_to(folder).as_posix(), Span(path), captions))
    named = {(path.parent, path.stem) for path in everything if path.suffix.lower() in PICTURES | UNREADABLE}
    skipped += [
        (path.relative_to(folder).as_posix(), "a caption without a picture")
        for place, path in texts.items()
        if place not in named
    ]
    read = [*pictures, *texts.values(), *metadata]
    return Index(str(folder), tuple(samples), tuple(skipped), described(read, folder))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)  # .DS_Store, ._0001.jpg, .ipynb_checkpoints


def _picture_of(row: dict, folder: Path) -> Path:
    key = next((key for key in FILE_KEYS if isinstance(row.get(key), str)), None)
    if key is None:
        raise ValueError(f"no picture under {', '.join(FILE_KEYS)}; it has {', '.join(map(str, row)) or 'nothing'}")
    return folder / Path(row[key])


def _rows(path: Path, folder: Path, skipped: list[tuple[str, str]]) -> Iterator[tuple[int, dict]]:
    """(line number, row) of a metadata file; what cannot be read goes to `skipped`."""
    name = path.relative_to(folder).as_posix()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        skipped.append((name, f"not UTF-8 text ({error}); its captions are missing"))
        return
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(text.splitlines())
        try:
            yield from ((reader.line_num, row) for row in reader)
        except csv.Error as error:
            skipped.append((f"{name}, line {reader.line_num}", f"not CSV ({error})"))
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                skipped.append((f"{name}, line {number}", f"not JSON ({error})"))
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                skipped.append((f"{name}, line {number}", "no JSON object"))
