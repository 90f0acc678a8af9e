"""Principal components of CLIP embeddings: the basis, fitted once on many pictures, and projections onto it (§4)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import is_whole
from ..presets import explain_clip
from ..types import Embedding, PCABasis, check_same_clip

if TYPE_CHECKING:
    from .model import Clip

WHO = "PCA Project"


def fit_pca(vectors: Tensor, clip_id: str) -> PCABasis:
    """The basis of vectors (N, D) on the native scale, worked out in float64. Each row's largest entry is positive, so
    that the basis is the same on every machine. Raises ValueError for fewer than 2 vectors."""
    if vectors.ndim != 2 or len(vectors) < 2:
        raise ValueError(f"fit-pca: needs at least 2 embeddings (N, D), got shape {tuple(vectors.shape)}; add pictures")
    exact = vectors.double()
    mean = exact.mean(0)
    centred = exact - mean
    variance, columns = torch.linalg.eigh(centred.T @ centred / len(vectors))
    rows = columns.T.flip(0)
    signs = rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
    return PCABasis(mean.float(), (rows * signs).float(), variance.flip(0).clamp(min=0).float(), clip_id)


def basis_of(clip: Clip) -> PCABasis:
    """The basis that a CLIP handle carries. Raises ValueError with the fix if it carries none."""
    if clip.pca is None:
        raise ValueError(
            f"{WHO}: the CLIP {clip.clip_id} was opened without its model's folder, so without a PCA basis; take it "
            "from Load unCLIP, or open it with pca=…"
        )
    try:
        return clip.pca()
    except ValueError as error:
        raise ValueError(f"{WHO}: {error}") from None


def project(embed: Embedding, basis: PCABasis, counts: list[int], *, unit_norm: bool = False) -> Embedding:
    """Each embedding through its first k components, for every k of `counts`: B x len(counts) rows, row-major
    (row = item * len(counts) + index of k), so that each item's reconstructions lie side by side.

    unit_norm: bring the results back to norm 1, for CLIPs whose embeddings have it. Raises ValueError for a basis of
    another CLIP and for a count that is not 1..D.
    """
    if not isinstance(embed, Embedding):
        raise ValueError(f"{WHO}: embed must be an Embedding, got {type(embed).__name__}; link CLIP Image Encode")
    check_basis(basis, embed.clip_id, embed.vector.shape[1])
    check_counts(counts, basis.dim)
    vectors = embed.vector.float()
    rows = torch.stack([basis.reconstruct(vectors, count) for count in counts], dim=1).flatten(0, 1)
    captions = tuple(caption for caption in embed.captions for _ in counts)
    return replace(embed, vector=F.normalize(rows, dim=-1) if unit_norm else rows, captions=captions)


def check_basis(basis: PCABasis, clip_id: str, dim: int) -> None:
    """Refuse a basis of another CLIP. Raises ValueError naming both and the fix."""
    if basis.clip_id != clip_id:
        raise ValueError(
            f"{WHO}: the PCA basis was fitted on {explain_clip(basis.clip_id)}, but the embedding is of "
            f"{explain_clip(clip_id)}; take clip and embed from the same Load unCLIP, or fit a basis with "
            "`unclip fit-pca`"
        )
    check_same_clip(WHO, basis.clip_id, basis.dim, clip_id, dim)


def check_counts(counts: list[int], dim: int) -> None:
    """Raises ValueError unless every count is a whole number of 1..dim and there is one."""
    if not counts:
        raise ValueError(f"{WHO}: component_counts is empty; give numbers from 1 to {dim}, such as 20, 30, 40, 80")
    for count in counts:
        if not is_whole(count) or not 1 <= count <= dim:
            raise ValueError(
                f"{WHO}: component_counts must be whole numbers from 1 to {dim} (this CLIP's dimensions), got {count!r}"
            )
