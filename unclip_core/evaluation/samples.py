"""Scores of any stack's samples of given captions: CLIP score, Fréchet distance, precision and recall."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from ..clip.model import Clip
from ..stack import Stack
from ..training.data import Tick
from ..training.sources.index import PICTURES
from .statistics import Measured, Reference, frechet_over_seeds, mean, precision_recall

NEIGHBOURS = 3


@dataclass(frozen=True)
class SampleScores:
    """clip_score: mean cosine of pictures to their captions; the rest compares with the reference pictures."""

    captions: int
    references: int
    clip_score: Measured
    frechet: Measured
    precision: float
    recall: float
    dimensions: int

    def rows(self) -> list[tuple[str, str]]:
        """Names and numbers as text."""
        return [
            ("CLIP score (cosine to the caption)", self.clip_score.shown()),
            ("Fréchet distance x 1,000", self.frechet.shown()),
            (f"precision, {NEIGHBOURS} neighbours", f"{self.precision:.1%}"),
            (f"recall, {NEIGHBOURS} neighbours", f"{self.recall:.1%}"),
        ]

    def caution(self) -> str:
        """What to know of a distance of few pictures; "" for enough."""
        fewest = min(self.captions, self.references)
        if fewest > 2 * self.dimensions:
            return ""
        return (
            f"{fewest} pictures are few for {self.dimensions}-d features: the Fréchet distance is biased upward, so "
            "compare only runs of equal numbers"
        )


def read_captions(path: Path) -> list[str]:
    """A caption a line, blank lines left out. Raises ValueError for a file that holds fewer than it takes."""
    captions = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if len(captions) <= NEIGHBOURS:
        raise ValueError(f"--captions {path}: {len(captions)} captions, but scores need more than {NEIGHBOURS}")
    return captions


def reference_paths(folder: Path) -> list[Path]:
    """Pictures below `folder`, by name. Raises ValueError for fewer than scores need."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if len(found) <= NEIGHBOURS:
        raise ValueError(f"--reference {folder}: {len(found)} pictures, but scores need more than {NEIGHBOURS}")
    return found


def embed_files(clip: Clip, paths: list[Path], tick: Tick, batch: int = 32) -> Tensor:
    """Unit-norm CLIP embeddings (N, D), of middle squares. Raises ValueError for a file that is no picture."""
    side, found = clip.image_size, []
    for start in range(0, len(paths), batch):
        pixels = []
        for path in paths[start : start + batch]:
            try:
                with Image.open(path) as image:
                    upright = ImageOps.exif_transpose(image).convert("RGB")
            except OSError as error:
                raise ValueError(f"--reference {path}: cannot be read as a picture ({error}); remove it") from None
            pixels.append(np.asarray(ImageOps.fit(upright, (side, side), Image.Resampling.BICUBIC)))
        found.append(clip.encode_image(torch.from_numpy(np.stack(pixels)).float() / 255).vector)
        tick("read reference", min(start + batch, len(paths)), len(paths))
    return F.normalize(torch.cat(found), dim=-1)


def paint(
    stack: Stack, captions: list[str], seed: int, batch: int, upsample: bool, tick: Tick
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of captions by the stack's own settings, caption i with seed + i, and unit-norm embeddings of pictures
    and of captions. upsample: through the 256 upsampler."""
    clip, pictures, images, texts = stack.clip, [], [], []
    for start in range(0, len(captions), batch):
        text = clip.encode_text(captions[start : start + batch])
        embed = stack.prior.sample(text, seed=seed + start)
        made = stack.decoder.sample(embed, text, seed=seed + start)
        if upsample:
            made = stack.upsampler_256.sample(made, seed=seed + start)
        pictures.append(made)
        images.append(F.normalize(clip.encode_image(made).vector, dim=-1))
        texts.append(F.normalize(text.embed, dim=-1))
        tick("paint", min(start + batch, len(captions)), len(captions))
    return torch.cat(pictures), torch.cat(images), torch.cat(texts)


def score(images: Tensor, texts: Tensor, reference: Tensor) -> SampleScores:
    """images, texts (N, D) of samples and their captions, reference (M, D); all of unit norm."""
    scale = 1000.0**0.5
    precision, recall = precision_recall(reference, images, NEIGHBOURS)
    return SampleScores(
        captions=len(images),
        references=len(reference),
        clip_score=mean((images * texts).sum(-1).tolist()),
        frechet=frechet_over_seeds(Reference(reference * scale), [images * scale], 20),
        precision=precision,
        recall=recall,
        dimensions=images.shape[1],
    )
