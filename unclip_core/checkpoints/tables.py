"""Fitted tables: small safetensors beside the models, `<stack>.pca.safetensors` and `<stack>.analytic.safetensors`.

A table lies in any model folder under its stack's name, or in the stack's own folder; the first one found is used. It
carries the id of the CLIP or prior that it was fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..config import FORMAT_VERSION
from ..types import PCABasis
from .catalog import ANALYTIC, PCA, TABLE_COMMANDS, Folders, StackEntry, find_table
from .header import CheckpointError, read_header
from .native import write_safetensors


def save_basis(path: Path, basis: PCABasis, metadata: Mapping[str, str] | None = None) -> None:
    """Write a PCA basis, whole or not at all. metadata: what it was fitted on, for people."""
    tensors = {"mean": basis.mean, "components": basis.components, "variance": basis.variance}
    _save(path, PCA, tensors, {**(metadata or {}), "clip_id": basis.clip_id})


def read_basis(entry: StackEntry, clip_id: str, folders: Folders = ()) -> PCABasis:
    """The PCA basis of a stack's CLIP. Raises ValueError if there is none or if it is another CLIP's."""
    path, metadata, tensors = _read(entry, PCA, ("mean", "components", "variance"), folders)
    _check_owner(path, entry, PCA, "CLIP", clip_id, metadata.get("clip_id", "unknown"))
    mean, components, variance = (tensors[name].float() for name in ("mean", "components", "variance"))
    dim = len(mean)
    if mean.ndim != 1 or components.shape != (dim, dim) or variance.shape != (dim,):
        raise CheckpointError(
            f"{path}: shapes {tuple(mean.shape)}, {tuple(components.shape)} and {tuple(variance.shape)} are no PCA "
            f"basis; fit it again with `{TABLE_COMMANDS[PCA]} {entry.name} --data FOLDER`"
        )
    return PCABasis(mean, components, variance, clip_id)


def save_noise_powers(path: Path, powers: Tensor, prior_id: str, metadata: Mapping[str, str] | None = None) -> None:
    """Write E||predicted noise||^2 / d of a prior, (timesteps,) float64 (Bao et al. 2022)."""
    _save(path, ANALYTIC, {"noise_powers": powers}, {**(metadata or {}), "prior_id": prior_id})


def read_noise_powers(entry: StackEntry, prior_id: str, timesteps: int, folders: Folders = ()) -> Tensor:
    """The table of a stack's prior, (timesteps,) float64. Raises ValueError for none or another prior's."""
    path, metadata, tensors = _read(entry, ANALYTIC, ("noise_powers",), folders)
    _check_owner(path, entry, ANALYTIC, "prior", prior_id, metadata.get("prior_id", "unknown"))
    powers = tensors["noise_powers"]
    if powers.shape != (timesteps,):
        raise CheckpointError(
            f"{path}: {tuple(powers.shape)} noise powers, but the prior has {timesteps} timesteps; fit them again with "
            f"`{TABLE_COMMANDS[ANALYTIC]} {entry.name} --data FOLDER`"
        )
    return powers


def _save(path: Path, kind: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    header = {**metadata, "format_version": str(FORMAT_VERSION), "table": kind}
    write_safetensors(path, {name: value.contiguous() for name, value in tensors.items()}, header)


def _read(
    entry: StackEntry, kind: str, names: tuple[str, ...], folders: Folders
) -> tuple[Path, dict[str, str], dict[str, Tensor]]:
    path = find_table(entry, kind, folders)
    command = f"`{TABLE_COMMANDS[kind]} {entry.name} --data FOLDER`"
    if path is None:
        what = "PCA basis" if kind == PCA else "table for the sampler analytic_ddpm"
        raise ValueError(f"model {entry.name!r} has no {what}; fit one with {command}")
    metadata, entries = read_header(path)
    if metadata.get("table") != kind or metadata.get("format_version") != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{path}: not a {kind} table of format {FORMAT_VERSION} (it says {metadata.get('table')!r}, "
            f"{metadata.get('format_version')!r}); fit it again with {command}"
        )
    if missing := [name for name in names if name not in entries]:
        raise CheckpointError(f"{path}: lacks {', '.join(missing)}; fit it again with {command}")
    tensors = load_file(path)
    if wrong := [name for name in names if not torch.isfinite(tensors[name]).all()]:
        raise CheckpointError(f"{path}: {', '.join(wrong)} holds NaN or infinity; fit it again with {command}")
    return path, metadata, tensors


def _check_owner(path: Path, entry: StackEntry, kind: str, what: str, expected: str, got: str) -> None:
    if got != expected:
        raise ValueError(
            f"{path} was fitted on the {what} {got}, but that of model {entry.name!r} is {expected}; fit it again with "
            f"`{TABLE_COMMANDS[kind]} {entry.name} --data FOLDER`, or remove the file"
        )
