"""WebDataset shards: uncompressed .tar files whose members of one name are a sample, as img2dataset writes them.

A shard is indexed once by its headers and read by offset, so any row can be read at any time.
"""

from __future__ import annotations

import glob
import os
import re
import tarfile
from pathlib import Path

from .index import PICTURES, UNREADABLE, CaptionFile, Index, Sample, Span, described


def shard_paths(where: str) -> list[Path]:
    """The files of a glob with WebDataset's braces: "shards/{000..011}.tar", "a/*.tar"."""
    found = [Path(name) for pattern in _braces(where) for name in sorted(glob.glob(pattern, recursive=True))]
    return [path for path in dict.fromkeys(found) if path.is_file()]


def _braces(pattern: str) -> list[str]:
    """A pattern without its first {a..b} or {a,b}, once for every value; numbers keep their leading zeros."""
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if not found:
        return [pattern]
    low, high, listed = found.groups()
    values = listed.split(",") if listed else [f"{n:0{len(low)}d}" for n in range(int(low), int(high) + 1)]
    return [each for value in values for each in _braces(pattern[: found.start()] + value + pattern[found.end() :])]


def index_shards(where: str, paths: list[Path]) -> Index:
    """Every sample of the shards that has a picture, in their order. A shard that ends early gives what is whole."""
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    paths = [path.absolute() for path in paths]
    samples: list[Sample] = []
    skipped: list[tuple[str, str]] = []
    for path in paths:
        found, problems = _read_shard(path, path.relative_to(root).as_posix())
        samples += found
        skipped += problems
    return Index(where, tuple(samples), tuple(skipped), described(paths, root))


def _read_shard(path: Path, name: str) -> tuple[list[Sample], list[tuple[str, str]]]:
    parts: dict[str, dict[str, Span]] = {}
    skipped: list[tuple[str, str]] = []
    length = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as shard:
            while (member := shard.next()) is not None:
                shard.members = []  # else it keeps every header that it has read
                if not member.isfile():
                    continue
                folder, _, file = member.name.rpartition("/")
                key, _, suffix = file.partition(".")  # a sample's key ends at the first dot of the file's name
                suffix = f".{suffix.lower()}"
                if suffix in UNREADABLE:
                    skipped.append((f"{name}: {member.name}", f"{suffix} is not read; convert it to PNG or JPEG"))
                if suffix not in PICTURES and suffix not in (".txt", ".json"):
                    continue
                if member.offset_data + member.size > length:
                    skipped.append((f"{name}: {member.name}", "the shard ends within it; download the shard again"))
                    continue
                kind = "picture" if suffix in PICTURES else suffix
                sample = parts.setdefault(f"{folder}/{key}" if folder else key, {})
                if kind in sample:
                    skipped.append((f"{name}: {member.name}", f"a second {kind} of this sample; the first is used"))
                else:
                    sample[kind] = Span(path, member.offset_data, member.size)
    except (tarfile.TarError, EOFError) as error:
        said = "the shard ends early; download it again" if parts else f"not an uncompressed .tar shard ({error})"
        skipped.append((name, said))
    samples = []
    for key, spans in parts.items():
        if "picture" not in spans:
            skipped.append((f"{name}: {key}", "a caption without a picture"))
            continue
        text = CaptionFile(spans[".txt"]) if ".txt" in spans else None
        if text is None and ".json" in spans:
            text = CaptionFile(spans[".json"], is_json=True)
        samples.append(Sample(f"{name}: {key}", spans["picture"], text))
    return samples, skipped
