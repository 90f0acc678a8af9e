"""Upsamplers' training inputs that went through the stages before them: what they will be given, and what it should
have been.

A picture of the data, made small, noised to a level of the decoder's schedule and denoised by the decoder (given the
picture's own image embedding, and its caption where there is one) is still that picture, but drawn by the decoder: with
its soft edges and halos. An upsampler that learns from such pairs mends just these. For the second upsampler
the pictures are enlarged by the first one besides. The pass is made once and kept, piece by piece.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.catalog import StackEntry, find, read_stack
from ..checkpoints.header import StageFile, read_stage
from ..config import UpsamplerConfig
from ..disk import one_at_a_time, whole_file
from ..stack import Stack, load_stack
from ..stages import Decoder
from ..types import Embedding, PictureStart, TextEncoding, model_to_image
from .batches import held_out
from .data import Data, Tick, to_model
from .embeddings import embed_rows
from .recipes import Recipe
from .validation import some_rows

LEVEL = 0.25  # of the schedule's length: the thing stays what and where it is, its edges become the decoder's
STEPS = 8  # of the decoder's, from there down
PIECE = 32  # rows that are made and kept at a time
HELD_OUT = 6  # of the pictures, which no step learns from: for the sheet
OVER = 4  # the small picture is the mean over so many pixels each way of a larger one, as upsamplers' inputs are
CORNERS = 4  # windows begin at multiples of so many pixels of the large picture


def pass_through(
    decoder: Decoder,
    image: Tensor,
    embed: Embedding | None,
    text: TextEncoding | None = None,
    *,
    level: float = LEVEL,
    steps: int = STEPS,
    guidance_scale: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """IMAGE (B, H, W, 3) noised to `level` (0..1 of the schedule) and denoised by the decoder: IMAGE (B, S, S, 3).

    embed, text: what the pictures show, see `Decoder.sample`; a decoder that reads no captions is given none. DDIM, so
    that no noise of a sampler comes on top of the decoder's own error; without guidance, which would push the picture
    away from the one that it was. Item i has noise of seed + i. Raises ValueError for another CLIP's input or a value
    out of range.
    """
    start = PictureStart(image, strength=level)
    text = text if decoder.reads_text else None
    return decoder.sample(
        embed, text, sampler="ddim", steps=steps, guidance_scale=guidance_scale, noise=start, seed=seed,
        warn=lambda message: None,
    )  # fmt: skip


@dataclass(frozen=True)
class Passed:
    """Low-resolution pictures that went through the stages before an upsampler, kept in pieces under `folder`.

    rows: the data's row at each place. shown: how many places, the first, are for the sheet alone. side: of the
    pictures, in pixels. key: another one for other weights, data or settings.
    """

    folder: Path
    rows: tuple[int, ...]
    shown: int
    side: int
    key: str

    def place(self, row: int) -> int:
        """The place that stands for a row of the data: one that is learnt from, each for as many rows."""
        return self.shown + row % (len(self.rows) - self.shown)

    def windows(self, places: Sequence[int], corners: Tensor, side: int) -> Tensor:
        """(N, 3, side, side) float32 in -1..1: windows whose corners (N, 2), as (left, top), are in its own pixels."""
        cut = []
        for place, (left, top) in zip(places, corners.tolist(), strict=True):
            # Opened every time: a mapped file would be sent to a worker whole.
            piece = np.load(_piece(self.folder, place // PIECE), mmap_mode="r")
            cut.append(piece[place % PIECE, top : top + side, left : left + side])
        return to_model(np.stack(cut))


def open_through(where: Sequence[str], folders: Iterable[Path] = ()) -> StackEntry:
    """The stages that --through names: an installed model's, a folder's or run's, or single files'; of two of a kind
    the later one counts. Raises ValueError for what is none of these."""
    stages: dict[str, StageFile] = {}
    for each in where:
        path = Path(each).expanduser()
        if path.is_file():
            found = read_stage(path)
            stages[found.stage] = found
            continue
        entry = read_stack(path) if path.is_dir() else find(each, folders)
        if entry is None or entry.problems:
            problems = "; ".join(entry.problems) if entry else "no stage in this folder"
            raise ValueError(f"--through {each}: {problems}; give a model, its folder, or the files of its stages")
        stages |= entry.stages
    return StackEntry(" ".join(where), Path(where[0]), stages)


def check_through(entry: StackEntry, config: UpsamplerConfig) -> None:
    """Raises ValueError unless these stages make the small pictures of an upsampler of this config."""
    label = f"--through {entry.name}"
    for stage in ("decoder", "clip"):
        if stage not in entry.stages:
            has = ", ".join(entry.stages)
            raise ValueError(f"{label} has no {stage} (it has {has}); give --through once more, with that file")
    decoder, clip = entry.stages["decoder"].config, entry.stages["clip"].config
    if decoder.autoencoder is not None:
        raise ValueError(
            f"{label}: the decoder {decoder.decoder_id} paints latents at full size, which no upsampler enlarges; give "
            "one that paints pixels"
        )
    if decoder.extra_input != "none":
        raise ValueError(
            f"{label}: the decoder {decoder.decoder_id} is shown more than noise (its extra_input is "
            f"{decoder.extra_input}), which the data has not; give the one that makes pictures from nothing"
        )
    if (decoder.clip_id, decoder.clip_dim) != (clip.clip_id, clip.embed_dim):
        raise ValueError(
            f"{label}: the decoder {decoder.decoder_id} reads {decoder.clip_id} ({decoder.clip_dim}-d), but the CLIP "
            f"is {clip.clip_id} ({clip.embed_dim}-d); give the decoder's own CLIP"
        )
    if "image" not in clip.towers:
        raise ValueError(f"{label}: the CLIP {clip.clip_id} has no image tower; give one that reads pictures")
    size, low, factor = decoder.unet.image_size, config.low_size, config.high_size // config.low_size
    if CORNERS % factor:
        raise ValueError(f"{label}: {config.high_size} px is {factor} times {low} px; give a factor of 2 or 4, or none")
    if size == low:
        return
    first = entry.stages.get("upsampler_256")
    if first is None:
        raise ValueError(
            f"{label} makes pictures of {size} px, but this upsampler enlarges those of {low} px; give --through once "
            "more, with the upsampler_256 that comes before it"
        )
    if (first.config.low_size, first.config.high_size) != (size, low):
        raise ValueError(
            f"{label} makes pictures of {size} px, its upsampler_256 enlarges {first.config.low_size} to "
            f"{first.config.high_size} px, and this upsampler those of {low} px; give stages that fit together"
        )


def pass_data(
    entry: StackEntry,
    config: UpsamplerConfig,
    data: Data,
    rows: Sequence[int],
    recipe: Recipe,
    cache: Path,
    *,
    device: torch.device | str = "cpu",
    progress: Tick | None = None,
    stop: Callable[[], None] = lambda: None,
) -> Passed:
    """`recipe.passed` of the rows (N), drawn at random, as the stages of `entry` give them to an upsampler of `config`;
    more of them begin with the same. Kept in `cache`, and taken up there after a kill.

    stop: called between pieces, and may raise. Raises ValueError for stages that do not fit (see `check_through`).
    """
    check_through(entry, config)
    learnt, held = held_out(rows, recipe.validation, recipe.seed)
    random.Random(f"{recipe.seed}/passed").shuffle(learnt)
    shown = some_rows(held, HELD_OUT) if held else learnt[: min(HELD_OUT, len(learnt) // 2)]
    order = [*shown, *(learnt if held else learnt[len(shown) :])]
    chosen = tuple(order[: len(shown) + recipe.passed])
    small_side = entry.stages["decoder"].config.unet.image_size
    settings = {
        "steps": recipe.passed_steps,
        "guidance_scale": recipe.passed_guidance,
        "level": recipe.passed_level,
    }
    said = [data.state, order, recipe.seed, settings, *(_weights(entry.stages[part]) for part in ("clip", "decoder"))]
    small = _kept_in(cache, small_side, said, chosen, len(shown))
    stack = load_stack(entry, "auto", device)

    def denoised(places: range) -> Tensor:
        return _denoised(stack, data, [chosen[at] for at in places], small_side, recipe.seed + places.start, settings)

    _make(small, "pass pictures through the decoder", denoised, progress, stop)
    if small_side == config.low_size:
        return small
    large = _kept_in(cache, config.low_size, [small.key, _weights(entry.stages["upsampler_256"])], chosen, len(shown))

    def enlarged(places: range) -> Tensor:
        pictures = small.windows(places, torch.zeros(len(places), 2, dtype=torch.int64), small_side)
        return stack.upsampler_256.sample(model_to_image(pictures), seed=recipe.seed + places.start)

    _make(large, f"enlarge them to {large.side} px", enlarged, progress, stop)
    return large


def _denoised(stack: Stack, data: Data, rows: list[int], side: int, seed: int, settings: dict[str, Any]) -> Tensor:
    """IMAGE (N, side, side, 3): rows of the data after the decoder; those with a caption are told it."""
    true = data.crops(rows, random.Random(0), OVER * side, OVER * side)[0]
    true = model_to_image(F.avg_pool2d(true, OVER))
    vectors = embed_rows(stack.clip, data, rows, fast=True)
    captions = [data.all_captions(row)[:1] for row in rows]
    made = torch.empty_like(true)
    for told in (True, False):
        group = [place for place, said in enumerate(captions) if bool(said) is told]
        if group:
            text = stack.clip.encode_text([captions[place][0] for place in group]) if told else None
            embed = Embedding(vectors[group], stack.clip.clip_id, "image")
            made[group] = pass_through(stack.decoder, true[group], embed, text, seed=seed, **settings)
    return made


def _make(
    made: Passed, what: str, make: Callable[[range], Tensor], progress: Tick | None, stop: Callable[[], None]
) -> None:
    """Every piece that is not there yet, written whole or not at all."""
    count = len(made.rows)
    with one_at_a_time(made.folder / "lock"):
        for number in range(-(-count // PIECE)):
            stop()
            places = range(number * PIECE, min(count, (number + 1) * PIECE))
            path = _piece(made.folder, number)
            if path.exists() and len(np.load(path, mmap_mode="r")) >= len(places):
                continue
            pixels = (make(places).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
            with whole_file(path, size=pixels.nbytes) as temporary:
                np.save(temporary, pixels)
            if progress:
                progress(what, places.stop, count)


def _piece(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.npy"


def _kept_in(cache: Path, side: int, said: list[Any], rows: tuple[int, ...], shown: int) -> Passed:
    key = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
    return Passed(cache / "passed" / f"{side}-{key}", rows, shown, side, key)


def _weights(found: StageFile) -> str:
    """A hash of what a stage's files hold."""
    digest = hashlib.sha256()
    for path in found.files:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    return digest.hexdigest()
