"""Text encodings, embeddings and inversions kept on disk between runs: `unclip run --cache DIR`.

A file is named after what made it: the node's content key (constants and everything upstream), the hash of the weights,
this package's version and the kind of device. Files are safetensors with a JSON header, never pickles; a damaged one is
dropped with a warning and made again. The least recently used go when the folder grows over its limit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...nodes.files import file_hash
from ...nodes.host import current_host
from ...unclip_core.disk import whole_file
from ..document.graph import Prompt, is_link
from .cache import Entry, KeysWithout, OutputCache

_FORMAT = 3
_LOADER = "UnCLIPLoader"
_OWN = __name__.split(".workflows.")[0]  # node classes of other packs may change without notice
_LOG = logging.getLogger(__name__)


class DiskCache(OutputCache):
    """An OutputCache that also looks into, and fills, a folder. `limit` as there; `max_bytes` is the folder's."""

    def __init__(self, folder: Path, max_bytes: int, classes: dict[str, type], limit: int | None = None):
        super().__init__(limit)
        self._store = Store(folder, max_bytes)
        self._classes = classes
        self._salt: str | None = None  # weights, version and device of the present prompt; None: it is not kept on disk
        # Key of the present prompt -> the same, whatever path and time the weights' files have.
        self._disk_keys: dict[str, str] = {}

    def begin(self, keys: Iterable[str], prompt: Prompt, keys_without: KeysWithout) -> None:
        """A prompt starts: note which weights, code and device its keys mean."""
        super().begin(keys, prompt, keys_without)
        self._salt = self._salt_of(prompt)
        # The salt has the hash of the weights, so a copy of their files at another place and time is as good.
        self._disk_keys = keys_without((_LOADER,)) if self._salt is not None else {}

    def __contains__(self, key: str) -> bool:
        if super().__contains__(key):
            return True
        entry = self._store.read(self._name(key)) if self._keeps(key) else None
        if entry is not None:
            super().put(key, entry)
        return entry is not None

    def put(self, key: str, entry: Entry) -> None:
        super().put(key, entry)
        if self._keeps(key) and not entry.made_by_expansion and not entry.ui:
            self._store.write(self._name(key), entry)

    def _keeps(self, key: str) -> bool:
        return self._salt is not None and not self._disk_keys.get(key, "once-").startswith("once-")

    def _name(self, key: str) -> str:
        return hashlib.blake2b(f"{self._salt}/{self._disk_keys[key]}".encode(), digest_size=20).hexdigest()

    def _salt_of(self, prompt: Prompt) -> str | None:
        from ...unclip_core.runtime.device import pick_device

        names = {node["class_type"] for node in prompt.values()}
        if not names or not all(self._classes[name].__module__.startswith(_OWN) for name in names):
            return None
        models = [node["inputs"].get("model_name") for node in prompt.values() if node["class_type"] == _LOADER]
        if any(is_link(model) for model in models):
            return None
        weights = {model: self._store.weights_hash(model) for model in sorted(set(models))}
        device = str(current_host().device() or pick_device()).partition(":")[0]
        return json.dumps([_FORMAT, _version(), device, weights])


class Store:
    """The folder: entries by name, with their own checksum, up to `max_bytes`. Several processes may share it."""

    def __init__(self, folder: Path, max_bytes: int):
        self._folder = folder
        self._max_bytes = max_bytes
        self._size: int | None = None
        self._warned = False

    def read(self, name: str) -> Entry | None:
        """The entry, or None when there is none or it is damaged."""
        from safetensors import safe_open

        path = self._path(name)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if metadata["checksum"] != _checksum(name, metadata["outputs"], tensors):
                raise ValueError("its checksum is another")
            outputs = json.loads(metadata["outputs"])
            entry = Entry([[_decode(item, tensors) for item in items] for items in outputs])
            os.utime(path)  # used now
        except OSError:
            return None
        except Exception as error:  # whatever a damaged file leads to, it is made again
            _LOG.warning("--cache: %s is damaged and is made again (%s)", path, " ".join(str(error).split()))
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        return entry

    def write(self, name: str, entry: Entry) -> None:
        """Keep an entry of values worth keeping; others are skipped. A full disk is a warning."""
        from safetensors.torch import save_file

        tensors: dict[str, Any] = {}
        outputs = [[_encode(item, tensors) for item in items] for items in entry.outputs]
        flat = [item for items in outputs for item in items]
        if not flat or any(item is None or "type" not in item for item in flat):
            return
        text = json.dumps(outputs)
        metadata = {"outputs": text, "checksum": _checksum(name, text, tensors)}
        path = self._path(name)
        try:
            with whole_file(path) as temporary:
                save_file(tensors, temporary, metadata=metadata)
                size = temporary.stat().st_size
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
                raise
            self._cannot_write(error)
            return
        self._size = None if self._size is None else self._size + size
        self._evict()

    def weights_hash(self, model: str) -> str:
        """The hash of all weights and configs of a stack that its encodings, embeddings and inversions depend on."""
        from ...unclip_core.checkpoints import catalog
        from ...unclip_core.config import to_json

        entry = catalog.find(model, current_host().model_folders())
        used = [stage for name, stage in sorted(entry.stages.items()) if not name.startswith("upsampler")]
        files = {path for stage in used for path in stage.all_files}
        files |= {path for table in catalog.TABLES for path in entry.folder.glob(f"*{table}")}
        parts = [to_json(stage.config) for stage in used] + [self._file_hash(path) for path in sorted(files)]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def _file_hash(self, path: Path) -> str:
        """SHA-256 of a file, remembered by its path, size and time: gigabytes are read once."""
        status = path.stat()
        key = hashlib.sha256(f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}".encode()).hexdigest()
        note = self._folder / "weights" / key
        try:
            known = note.read_text()
            if len(known) == 64:
                return known
        except (OSError, ValueError):
            pass
        digest = file_hash(path)
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(digest)
        except OSError as error:
            self._cannot_write(error)
        return digest

    def _cannot_write(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            _LOG.warning("--cache %s: cannot be written (%s); going on without", self._folder, error)

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / f"{name}.safetensors"

    def _evict(self) -> None:
        if self._size is not None and self._size <= self._max_bytes:
            return
        found = []
        for path in self._folder.glob("??/*.safetensors"):
            try:
                status = path.stat()
            except OSError:  # another process was faster
                continue
            found.append((status.st_mtime_ns, status.st_size, path))
        self._size = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if self._size <= self._max_bytes:
                break
            with contextlib.suppress(OSError):  # another process was faster
                path.unlink()
            self._size -= size


def _kept_types() -> dict[str, type]:
    from ...unclip_core.types import Embedding, GivenNoise, Inversion, LoraRecord, TextEncoding

    return {kind.__name__: kind for kind in (TextEncoding, Embedding, GivenNoise, Inversion, LoraRecord)}


def _encode(value: Any, tensors: dict[str, Any]) -> Any:
    """A value as JSON, its tensors put into `tensors`; None for what is not kept."""
    import torch

    kind = type(value).__name__
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, str | int | float | bool):
        return {"value": value}
    if isinstance(value, tuple) and all(isinstance(item, str | int | float) for item in value):
        return {"tuple": list(value)}
    if isinstance(value, tuple):
        items = [_encode(item, tensors) for item in value]
        return None if None in items else {"items": items}
    if _kept_types().get(kind) is not type(value) or (kind == "GivenNoise" and value.inversion is None):
        return None  # drawn noise is made faster than it is read
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    encoded = {name: None if field is None else _encode(field, tensors) for name, field in fields.items()}
    broken = [name for name, field in fields.items() if field is not None and encoded[name] is None]
    return None if broken else {"type": kind, "fields": encoded}


def _decode(item: Any, tensors: dict[str, Any]) -> Any:
    if item is None:
        return None
    if "tensor" in item:
        return tensors[item["tensor"]]
    if "tuple" in item:
        return tuple(item["tuple"])
    if "items" in item:
        return tuple(_decode(inner, tensors) for inner in item["items"])
    if "value" in item:
        return item["value"]
    fields = {name: _decode(field, tensors) for name, field in item["fields"].items()}
    return _kept_types()[item["type"]](**fields)


def _checksum(name: str, outputs: str, tensors: dict[str, Any]) -> str:
    """Of all that an entry says: its own name, so that it answers to no other; the JSON of its outputs, with ids and
    modalities; and the tensors."""
    import torch

    digest = hashlib.blake2b(f"{name}\0{outputs}\0".encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name}{tensors[name].dtype}{tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _version() -> str:
    try:
        return importlib.metadata.version("unclip")
    except importlib.metadata.PackageNotFoundError:
        return "0"
