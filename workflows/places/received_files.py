"""Files made elsewhere, on a server or by a worker, written into the output folder here under free names."""

from __future__ import annotations

import re
from pathlib import Path

from ...nodes.files import file_inside, move_to_free_name, move_to_free_number, temporary_file
from ...unclip_core.disk import make_folder
from ..rows.results import FILE

_NUMBERED = re.compile(r"(?P<stem>.*)_(?P<counter>\d{5,9})(?P<ending>_?\.\w+)")


def row_tag(row: int) -> str:
    """What the names of a row's files carry, so that a folder of many rows says which is whose."""
    return f"_row{row:05}"


def save_file(output: Path, subfolder: str, name: str, data: bytes, tag: str = "") -> Path:
    """Write `data` below `output` and return its path there. A name that is taken is numbered on, never overwritten.

    `tag` goes before the number. Raises ValueError when the name leads out of the folder, or is the folder's own; and
    for a hidden file or the list of results, which programs read.
    """
    path = file_inside(output, f"{subfolder}/{name}" if subfolder else name)
    inside = path.relative_to(output.resolve())
    if any(part.startswith(".") for part in inside.parts) or inside.name == FILE:
        raise ValueError(f"the file {inside.as_posix()!r} is not saved: no node makes one of that name")
    folder = path.parent
    make_folder(folder)
    numbered = _NUMBERED.fullmatch(path.name)
    with temporary_file(folder, path.stem) as temporary:
        temporary.write_bytes(data)
        if numbered:
            stem = numbered["stem"].removesuffix(tag) + tag
            counter = int(numbered["counter"]) if not tag else 1
            path = move_to_free_number(temporary, folder, stem, counter, numbered["ending"])
        else:
            path = _rename_until_free(temporary, folder / f"{path.stem}{tag}{path.suffix}")
    return path.relative_to(output.resolve())


def _rename_until_free(temporary: Path, path: Path) -> Path:
    for number in range(1, 100_000):
        candidate = path if number == 1 else path.with_name(f"{path.stem}_{number}{path.suffix}")
        try:
            move_to_free_name(temporary, candidate)
        except FileExistsError:
            continue
        return candidate
    raise FileExistsError(f"{path}: too many files of this name; clear the folder")
