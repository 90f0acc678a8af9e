"""Files that a graph names: paths of what it reads, names for what it saves, and the graph inside of what is saved.

Nothing that a graph says leaves the input, output and temp folders. Links in those folders are the user's own word, so
they are followed; `unclip edit`, which answers to a web page, follows none out of them (Host.follows_links).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import ntpath
import os
import posixpath
import re
import time
import unicodedata
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any, TypeVar

from ..unclip_core.disk import (
    clear_once,
    make_folder,
    naming_full_disk,
    sync_file,
    sync_folder,
    temporary_path,
    whole_file,
)
from .host import current_host
from .inputs import verdict

FOLDERS = ("input", "output", "temp")
Where = TypeVar("Where", bound=PurePath)
_MAX_NAME, _MAX_PATH, _MAX_DEPTH = 255, 1024, 64  # bytes, characters, folders
_ROOM = 40  # bytes of what is added to a prefix: row, number, ending
_NOT_ON_WINDOWS = '<>:"|?*'
_DEVICES = {
    *("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"),
    *(f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789¹²³"),
}
PICTURE_TYPES = {  # of the files that are offered as pictures: ending -> media type
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".jfif": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".avif": "image/avif",
}


# --- Paths of what is read -------------------------------------------------------------------------------------------


class UnusableName(ValueError):
    """A file name that no file system, or not this one, has."""


def path_inside(folder: Path, relative: str, links: bool | None = None) -> Path:
    """The path of `relative` in `folder`. Raises ValueError when it leads out of the folder, UnusableName for what
    cannot be a name.

    links: whether links in the folder may lead out of it; None: as the host says.
    """
    root = folder.resolve()
    path = joined_inside(root, relative)
    if not (current_host().follows_links() if links is None else links):
        try:
            path = path.resolve()
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{relative!r} in {folder} cannot be followed ({error}); remove the link") from None
        if path != root and root not in path.parents:
            raise _leads_out(relative, root)
    return path


def joined_inside(root: Where, relative: str) -> Where:
    """`relative` below `root`, by the rules of the system that `root` is of, and not resolved: `..` takes back what is
    written before it, wherever that is linked to. Raises as `path_inside` does."""
    windows = isinstance(root, PureWindowsPath)
    names = relative.replace("\\", "/").split("/")
    if len(names) > _MAX_DEPTH or len(relative) > _MAX_PATH:
        raise UnusableName(f"{relative[:60]!r}... is longer than {_MAX_PATH} signs or {_MAX_DEPTH} folders; shorten it")
    if reason := next(filter(None, (name_problem(name, windows) for name in names)), None):
        raise UnusableName(f"{relative!r} {reason}")
    rules = ntpath if windows else posixpath
    path = type(root)(rules.normpath(rules.join(str(root), "/".join(names))))
    if path != root and root not in path.parents:
        raise _leads_out(relative, root)
    return path


def name_problem(name: str, windows: bool) -> str | None:
    """Why a file or folder cannot have this name, or None. On Windows a name could be a device, which swallows what is
    written; a stream of another file; or lose its last sign."""
    if any(unicodedata.category(sign) == "Cc" for sign in name):
        return "holds a control character; take it out"
    try:
        size = len(os.fsencode(name))
    except UnicodeEncodeError:
        return "holds half of a character; write it anew"
    if size > _MAX_NAME:
        return f"holds a name of {size} bytes, and names have at most {_MAX_NAME}; shorten it"
    if not windows or name in ("", ".", ".."):
        return None
    if found := next((sign for sign in _NOT_ON_WINDOWS if sign in name), None):
        return f"holds {found}, which no name on Windows can; take it out"
    if name[-1] in ". ":
        return "holds a name that ends with a dot or a space, which Windows drops; take it off"
    if name.partition(".")[0].rstrip().upper() in _DEVICES:
        return f"holds {name!r}, which is a device on Windows; choose another name"
    return None


def _leads_out(relative: str, folder: PurePath) -> ValueError:
    return ValueError(f"{relative!r} leads out of the folder {folder}; use a path inside it")


def file_inside(folder: Path, relative: str) -> Path:
    """`path_inside` for a file that is to be written. Raises ValueError also for the name of the folder itself:
    the file would lie beside it."""
    path = path_inside(folder, relative)
    if path == folder.resolve():
        raise ValueError(f"{relative!r} names no file in the folder {folder}; give it a name, such as unclip")
    if len(os.fsencode(path.name)) > _MAX_NAME - _ROOM:
        raise UnusableName(f"{relative[:60]!r}... is a name of more than {_MAX_NAME - _ROOM} bytes; shorten it")
    return path


def split_annotation(name: str) -> tuple[str, str | None]:
    """`picture.png [output]`, as the editor writes which folder a file lies in, to ("picture.png", "output"); None
    without such an annotation."""
    for kind in FOLDERS:
        if name.endswith(f" [{kind}]"):
            return name[: -len(kind) - 3], kind
    return name, None


def annotated_path(name: str) -> Path:
    """The file that `picture.png [output]` means; without an annotation it lies in the input folder. Raises ValueError
    outside of the folder."""
    plain, kind = split_annotation(name)
    return path_inside(current_host().folder(kind or "input"), plain)


def picture_problem(name: str) -> str | None:
    """Why `name` is not a readable picture file, or None."""
    if not str(name).strip():
        return "no picture is chosen; choose one (headless: -s TITLE=FILE, the node's title)"
    try:
        path = annotated_path(name)
    except ValueError as error:
        return f"{error}, or give the folder that it lies in with -i"
    return None if path.is_file() else f"there is no picture {path}; put it there, or give the input folder with -i"


def content_hash(name: str | None) -> str:
    """SHA-256 of a file, for IS_CHANGED: another one under the same name is another input. "" if there is none."""
    if not isinstance(name, str):
        return ""
    try:
        return file_hash(annotated_path(name))
    except (OSError, ValueError):
        return ""


def file_state(path: Path) -> str:
    """What is another after a file was written anew, for IS_CHANGED of files too large to hash. Raises OSError."""
    found = path.stat()
    return f"{path} {found.st_size} {found.st_mtime_ns}"


def file_hash(path: Path) -> str:
    """SHA-256 of a file of any size. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def input_pictures() -> list[str]:
    """Names of the pictures directly in the input folder, sorted; empty when there is no such folder."""
    folder = current_host().folder("input")
    if not folder.is_dir():
        return []
    files = [entry.name for entry in os.scandir(folder) if entry.is_file()]
    return sorted(name for name in files if Path(name).suffix.lower() in PICTURE_TYPES)


# Folder, ending, links followed -> (modification time of each folder below, the names that were found).
_listings: dict[tuple[str, str, bool], tuple[dict[str, int | None], list[str]]] = {}
_CLOCK_STEP = 100_000_000  # ns: a folder may change once more within one step of a file system's coarse clock


def files_below(folder: Path, ending: str) -> list[str]:
    """Names of the files with this ending in `folder` and below, with `/`, sorted; hidden ones are left out.

    The listing is remembered until one of the folders changes: a node's inputs are asked for several times in a run.
    """
    links = current_host().follows_links()
    place = (os.path.abspath(folder), ending, links)
    if (known := _listings.get(place)) and all(_time(inner) == time for inner, time in known[0].items()):
        return known[1]
    now, times, names = time.time_ns(), {}, []
    waiting: list[tuple[str, str, tuple[str, ...]]] = [(place[0], "", ())]
    while waiting:
        inner, prefix, above = waiting.pop()
        real = os.path.realpath(inner)
        if real in above:  # a link back to a folder that it lies in
            continue
        times[inner] = _time(inner)
        with contextlib.suppress(OSError):  # it need not exist
            for entry in os.scandir(inner):
                if entry.is_dir(follow_symlinks=links):
                    waiting.append((entry.path, f"{prefix}{entry.name}/", (*above, real)))
                elif entry.name.endswith(ending) and not entry.name.startswith("."):
                    names.append(prefix + entry.name)
    names.sort()
    _listings.pop(place, None)
    if all(then is None or now - then > _CLOCK_STEP for then in times.values()):
        _listings[place] = (times, names)
    return names


def _time(folder: str) -> int | None:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return None


# --- Names for what is saved -----------------------------------------------------------------------------------------


def fill_variables(prefix: str, width: int, height: int) -> str:
    """The variables the editor's server fills in: %width% %height% %year% %month% %day% %hour% %minute% %second%."""
    now = time.localtime()
    values = {
        "width": str(width),
        "height": str(height),
        "year": str(now.tm_year),
        "month": f"{now.tm_mon:02}",
        "day": f"{now.tm_mday:02}",
        "hour": f"{now.tm_hour:02}",
        "minute": f"{now.tm_min:02}",
        "second": f"{now.tm_sec:02}",
    }
    return re.sub("%(" + "|".join(values) + ")%", lambda match: values[match[1]], prefix)


def validate_prefix(prefix: str | None) -> bool | str:
    """What VALIDATE_INPUTS of a node that saves answers: True, or why the prefix names no file in the output folder.

    Variables are only numbers, so they change nothing here. None, for a prefix that is linked, waits for the save.
    """
    return verdict(partial(file_inside, current_host().folder("output")), prefix)


def file_entry(path: Path, root: Path, kind: str) -> dict[str, str]:
    """A saved file as a node shows it and the editor's page asks for it again; `root` is the folder of `kind`, "output"
    or "temp"."""
    subfolder = path.parent.relative_to(root.resolve()).as_posix()
    return {"filename": path.name, "subfolder": "" if subfolder == "." else subfolder, "type": kind}


def saving_place(prefix: str, root: Path, width: int, height: int) -> tuple[Path, str, int]:
    """Where files of a prefix go: (folder, made if needed; file stem; first free counter), for `move_to_free_number`.

    `width` and `height` fill in the prefix's variables. Raises ValueError for a prefix that names no file below `root`.
    """
    target = file_inside(root, fill_variables(prefix, width, height))
    folder, stem = target.parent, target.name + current_host().file_tag
    make_folder(folder)
    taken = re.compile(re.escape(os.path.normcase(stem)) + r"_(\d+)_")
    counters = [int(match[1]) for name in os.listdir(folder) if (match := taken.match(os.path.normcase(name)))]
    return folder, stem, max(counters, default=0) + 1


@contextlib.contextmanager
def temporary_file(folder: Path, name: str) -> Iterator[Path]:
    """A hidden name in `folder` for a file that is being written, to be called `name` and more. What has not been moved
    to its real name at the end of the with block is deleted, and so is what killed runs left in the folder. Raises
    DiskFull."""
    clear_once(folder)
    temporary = temporary_path(folder)
    with naming_full_disk(folder / name):
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def move_to_free_number(temporary: Path, folder: Path, stem: str, counter: int, ending: str = "_.png") -> Path:
    """Move a finished file to the first free `<stem>_<counter><ending>`, from `counter` on, and return that path.

    A file that exists is never overwritten, also when another process makes it at the same moment.
    """
    while True:
        path = folder / f"{stem}_{counter:05}{ending}"
        try:
            move_to_free_name(temporary, path)
        except FileExistsError:
            counter += 1
        else:
            return path


def write_whole(path: Path, data: bytes, overwrite: bool = False) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut. Raises FileExistsError when it
    exists, NotADirectoryError, DiskFull."""
    if overwrite:
        with whole_file(path, durable=True, size=len(data)) as temporary:
            temporary.write_bytes(data)
        return
    make_folder(path.parent)
    with temporary_file(path.parent, path.stem) as temporary:
        temporary.write_bytes(data)
        move_to_free_name(temporary, path)


def move_to_free_name(temporary: Path, path: Path) -> None:
    """Move a finished file to a name that is free; on the disk before it has the name, so that what a list of results
    calls done is there after a power cut. Raises FileExistsError when it is not free."""
    sync_file(temporary)
    try:
        os.link(temporary, path)  # unlike a rename, refuses a name that exists
    except FileExistsError:
        raise
    except (OSError, AttributeError):  # a file system without links: hold the name, then fill it
        if not temporary.exists():
            raise
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(temporary, path)
    else:
        temporary.unlink()
    sync_folder(path.parent)


# --- The graph inside of what is saved -------------------------------------------------------------------------------


def graph_metadata(prompt: dict | None, extra_pnginfo: dict[str, Any] | None) -> dict[str, str]:
    """What a saved picture carries so that the editor, and `unclip run`, find the graph that made it: JSON texts by
    name, "prompt", then what the page sent with it, its "workflow" first of all. Empty where the host keeps no graphs.
    """
    if not current_host().keeps_graphs():
        return {}
    given = ({} if prompt is None else {"prompt": prompt}) | (extra_pnginfo or {})
    return {name: json.dumps(value) for name, value in given.items()}
