"""What an experiment finds, and where it is kept: JSON and PNG in the run folder, so that a killed run goes on.

Samples are kept a chunk at a time, each under a key of all that it was made from, with the processor time that it took:
a killed experiment loses the chunk that was under way, and a larger count adds chunks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..disk import whole_file, write_text
from ..training.sheets import save_png
from .statistics import Measured

LEVELS = 255 * 256  # of a picture that is kept


@dataclass(frozen=True)
class Check:
    """A number with a target. unit: "%" for shares, "dB", "x". below: the target is an upper bound."""

    name: str
    measured: Measured
    target: float
    unit: str = "%"
    below: bool = False

    @property
    def verdict(self) -> str:
        """Whether the interval lies beyond the target: "reached", "missed", or "undecided" where it includes it."""
        return self.measured.against(self.target, below=self.below)

    @property
    def proviso(self) -> str:
        """What a sentence that relies on this number has to add."""
        return {
            "reached": "",
            "undecided": f"; undecided by the interval: {self.name}",
            "missed": f"; less than aimed at: {self.name}",
        }[self.verdict]

    def row(self) -> list[str]:
        """Name, number with interval, target, verdict."""
        sign = "≤" if self.below else "≥"
        target = f"{sign} {self.target:.0%}" if self.unit == "%" else f"{sign} {self.target:.3g} {self.unit}".rstrip()
        return [
            self.name,
            self.measured.shown(self.unit),
            target,
            "**missed**" if self.verdict == "missed" else self.verdict,
        ]


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Figure:
    """A picture of the report. image: IMAGE (1, H, W, 3); None once it lies in the run folder."""

    name: str
    caption: str
    image: Tensor | None = None


@dataclass(frozen=True)
class Result:
    """One experiment's findings. paper: how they stand to the paper's claim, a sentence each. notes: conditions to
    know when reading the numbers. seconds: on the clock, of the run that finished it; processor: of all threads and of
    all runs that worked on it, whatever else the machine did, without the training of judges and small decoders.
    codes: of the code that made its samples, see `Store`."""

    checks: list[Check] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    paper: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    processor: float = 0.0
    codes: list[str] = field(default_factory=list)


def result_to_json(result: Result) -> dict[str, Any]:
    """Everything but the figures' pixels."""
    bare = dataclasses.replace(result, figures=[dataclasses.replace(f, image=None) for f in result.figures])
    return dataclasses.asdict(bare)


def result_from_json(data: dict[str, Any]) -> Result:
    """The inverse of `result_to_json`."""
    return Result(
        checks=[Check(**{**check, "measured": Measured(**check["measured"])}) for check in data["checks"]],
        tables=[Table(**table) for table in data["tables"]],
        figures=[Figure(**figure) for figure in data["figures"]],
        paper=data["paper"],
        notes=data["notes"],
        seconds=data["seconds"],
        processor=data["processor"],
        codes=data["codes"],
    )


class Store:
    """A run folder's memory. Whatever is in it is whole: files are written beside and renamed, a JSON last.

    code: a name of the code that makes tensors. It is written beside them and is no part of their key: a key would
    throw hours of samples away for a comment. But who reads numbers is to know when another code made the samples.
    earlier: seconds of processor time that the tensors which were there already had taken, each counted once; codes:
    the names of the code that made those samples which were asked for, "" for unknown. Both since `begin`.
    """

    def __init__(self, folder: Path, code: str = "") -> None:
        self.folder, self.code = folder, code
        self.begin()

    @property
    def by_others(self) -> bool:
        """Whether other code than the present made any of what was asked for."""
        return bool(self.codes - {self.code})

    def begin(self) -> None:
        """Forget what was asked for so far."""
        self.earlier = 0.0
        self.codes: set[str] = set()
        self._asked: set[Path] = set()

    def load(self, name: str, key: str) -> Result | None:
        """The result kept under this key, or None."""
        path = self._place(name, key) / "result.json"
        return result_from_json(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def save(self, name: str, key: str, result: Result) -> None:
        """Keep a result and its pictures."""
        place = self._place(name, key)
        place.mkdir(parents=True, exist_ok=True)
        for figure in result.figures:
            save_png(to_pil(figure.image), place / f"{figure.name}.png")
        write_text(place / "result.json", json.dumps(result_to_json(result), ensure_ascii=False, indent=1))

    def picture(self, name: str, key: str, figure: Figure) -> Path:
        """Where a kept figure lies."""
        return self._place(name, key) / f"{figure.name}.png"

    def tensors(
        self, name: str, key: str, make: Callable[[], dict[str, Tensor]], *, sampled: bool = True
    ) -> dict[str, Tensor]:
        """Tensors made once: what takes long inside an experiment survives a kill of that experiment. sampled: whether
        `code` has a part in them, other than by what is in their key."""
        path = self.folder / "made" / f"{name}-{key}.safetensors"
        if not path.exists():
            began = time.process_time()
            found = {label: tensor.contiguous() for label, tensor in make().items()}
            with whole_file(path) as temporary:
                note = {"processor": f"{time.process_time() - began:.3f}", "code": self.code}
                save_file(found, temporary, note)
            if sampled:
                self.codes.add(self.code)
            self._asked.add(path)
            return found
        with safe_open(path, "pt") as file:
            note = file.metadata() or {}
            if sampled:
                self.codes.add(note.get("code", ""))
            if path not in self._asked:
                self.earlier += float(note.get("processor", 0.0))
                self._asked.add(path)
            return {label: file.get_tensor(label) for label in file.keys()}  # noqa: SIM118 (it is no dictionary)

    def _place(self, name: str, key: str) -> Path:
        return self.folder / "results" / f"{name}-{key}"


def digest(*parts: object) -> str:
    """A short key of anything that JSON, or str, can spell; of tensors, by their values; of dataclasses, by the
    fields that are compared."""
    text = json.dumps(parts, sort_keys=True, default=_spelled)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _spelled(part: object) -> object:
    if isinstance(part, Tensor):
        raw = part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return [str(part.dtype), list(part.shape), hashlib.sha256(raw).hexdigest()]
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        compared = [field.name for field in dataclasses.fields(part) if field.compare]
        return [type(part).__name__, {name: getattr(part, name) for name in compared}]
    return str(part)


def packed(image: Tensor) -> Tensor:
    """IMAGE, values 0..1, as 16-bit integers: 8-bit values exactly, others to 1e-5."""
    return (image.clamp(0, 1) * LEVELS).round().to(torch.int32).to(torch.uint16)


def unpacked(kept: Tensor) -> Tensor:
    """The IMAGE that was packed."""
    return kept.to(torch.int32).float() / LEVELS


def written(value: object) -> Tensor:
    """Anything that JSON can spell, as a tensor of bytes."""
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def read(kept: Tensor) -> Any:
    """What was written."""
    return json.loads(bytes(kept.tolist()))


def to_pil(image: Tensor) -> Image.Image:
    """The first of IMAGE (B, H, W, 3)."""
    return Image.fromarray((image[0].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy().astype(np.uint8))
