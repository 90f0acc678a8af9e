"""LoRA files: where they lie and what they say about themselves, without torch.

Searched in this order: the host's LoRA folders (ComfyUI's models/loras), then `loras` in the host's model folders and
in those of $UNCLIP_MODELS. Other models' LoRAs lie there too; they are left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..config import STAGES
from ..texts import shown
from .catalog import ENVIRONMENT, LORAS, environment_folders
from .header import CheckpointError, read_header, remembered
from .lora_keys import foreign_layers

KIND = "unclip-lora"
VERSION = "1"
WORDS = "words"  # the tensor (words, W) with the token embeddings of new words


@dataclass(frozen=True)
class LoraInfo:
    """What a LoRA file says of itself.

    ids: {stage: id of the network that it was trained on}, "" where the file does not say. clip_id: of the CLIP whose
    words it adds, "" if it adds none. words: new words, for which it has token embeddings. metadata: all its texts.
    """

    path: Path
    ids: dict[str, str]
    clip_id: str
    words: tuple[str, ...]
    metadata: dict[str, str]

    @property
    def native(self) -> bool:
        """Whether its layers go by our names, and not by diffusers'."""
        return self.metadata.get("kind") == KIND


def search_path(loras: Iterable[str | os.PathLike] = (), models: Iterable[str | os.PathLike] = ()) -> list[Path]:
    """The folders with LoRA files, in order. loras: the host's own; models: the host's model folders."""
    folders = [*(Path(folder) for folder in loras), *(Path(model) / LORAS for model in models)]
    folders += [folder / LORAS for folder in environment_folders()]
    return list(dict.fromkeys(folder.expanduser() for folder in folders))


def list_loras(folders: Iterable[Path]) -> dict[str, Path]:
    """LoRA files of unCLIPs in `folders`: names relative to their folder, with `/`, sorted; of equal ones the first."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in _files(folder):
            name = path.relative_to(folder).as_posix()
            if name not in found and _is_lora(path):
                found[name] = path
    return dict(sorted(found.items()))


def find_lora(name: str, folders: Iterable[Path]) -> Path:
    """The file called `name` in one of `folders`. Raises ValueError if there is none, or if it is no unCLIP's LoRA."""
    folders = list(folders)
    relative = Path(os.path.normpath(name.replace("\\", "/")))
    if not relative.is_absolute() and ".." not in relative.parts:
        for folder in folders:
            if (folder / relative).is_file():
                read_lora_info(folder / relative)
                return folder / relative
    known, looked = ", ".join(list_loras(folders)) or "none", ", ".join(map(str, folders)) or "no folder"
    raise ValueError(
        f"Apply LoRA: no file {name!r}; there are: {known}. Looked in {looked}; put the file there, set "
        f"${ENVIRONMENT} to a folder with {LORAS}/{name}, or let `unclip train subject` make it (docs/training-lora.md)"
    )


@remembered
def read_lora_info(path: Path) -> LoraInfo:
    """What a LoRA file holds. Raises CheckpointError naming the file and what is wrong with it."""
    metadata, tensors = read_header(path)
    if metadata.get("kind") != KIND:
        try:
            layers = foreign_layers(tensors)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        if not layers:
            raise CheckpointError(f"{path}: holds no tensors; download it again")
        return LoraInfo(path, dict.fromkeys(layers, ""), "", (), metadata)
    if metadata.get("format_version") != VERSION:
        raise CheckpointError(
            f"{path}: LoRA format version {shown(metadata.get('format_version'))}, but this comfyui-unclip reads "
            f"{VERSION}; update comfyui-unclip"
        )
    ids, words = _json(path, metadata, "stages", dict), _json(path, metadata, "words", list)
    if not all(stage in STAGES and isinstance(name, str) for stage, name in ids.items()):
        raise CheckpointError(f"{path}: stages {shown(ids)} are no table of stages and ids; save the LoRA again")
    rows = tensors.get(WORDS, ("", (0, 0)))[1]
    if not all(isinstance(word, str) and word for word in words) or len(rows) != 2 or rows[0] != len(words):
        raise CheckpointError(f"{path}: words {shown(words)} and {shown(rows)} embeddings; save the LoRA again")
    return LoraInfo(path, ids, metadata.get("clip_id", ""), tuple(words), metadata)


def _json(path: Path, metadata: dict[str, str], name: str, kind: type) -> object:
    try:
        value = json.loads(metadata.get(name) or ("{}" if kind is dict else "[]"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise CheckpointError(f"{path}: its {name} are {shown(metadata.get(name))}; save the LoRA again")
    return value


def _is_lora(path: Path) -> bool:
    try:
        read_lora_info(path)
    except CheckpointError:
        return False
    return True


def _files(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """The safetensors below `folder`, links followed, hidden ones left out."""
    real = os.path.realpath(folder)
    try:
        entries = sorted(folder.iterdir())
    except OSError:  # it need not exist
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if os.path.realpath(entry) not in (*above, real):  # a link back to a folder that it lies in
                yield from _files(entry, (*above, real))
        elif entry.suffix == ".safetensors":
            yield entry
