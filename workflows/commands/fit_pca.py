"""`unclip fit-pca`: the principal components of a CLIP's image embeddings."""

from __future__ import annotations

from pathlib import Path

import click

from ..terminal import echo
from ._options import cache_option

EPILOG = """\b
Examples:
  unclip fit-pca --clip karlo-v1-alpha --data photos/
  unclip fit-pca --clip storybook --data 'shards/*.tar' -o models/unclip/storybook.pca.safetensors
\b
The more pictures the better: more than the CLIP has dimensions, thousands if you can.
"""


@click.command(epilog=EPILOG)
@click.option("--clip", "stack", default="storybook", show_default=True, help="Installed model whose CLIP it is for.")
@click.option("--data", default="storybook", show_default=True, help="Rendered scenes, a folder, or .tar shards.")
@click.option("--pictures", default=60_000, show_default=True, type=click.IntRange(2), help="Scenes to draw.")
@click.option("--seed", default=1, show_default=True, type=int, help="Of the scenes.")
@cache_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="[default: a model folder that can be written]")
def command(stack, data, pictures, seed, cache, output) -> None:
    """Fit the components that PCA Project keeps, and write them as <model>.pca.safetensors."""
    from ...nodes.host import current_host
    from ...unclip_core.checkpoints.catalog import PCA, find
    from ...unclip_core.checkpoints.tables import save_basis
    from ...unclip_core.clip.pca import fit_pca
    from ...unclip_core.stack import load_stack
    from ...unclip_core.training.fit_pca import embed_pictures
    from ._fitting import open_pictures, table_path, with_bar

    entry = find(stack, current_host().model_folders())
    path = table_path(output, stack, PCA)
    clip = load_stack(entry).clip
    rows = open_pictures(data, cache, pictures, seed)
    vectors = with_bar(embed_pictures(clip, rows), "encode", "picture")
    basis = fit_pca(vectors, clip.clip_id)
    if len(vectors) <= basis.dim:
        echo(f"warning: {len(vectors)} pictures for {basis.dim} dimensions; the last components are arbitrary")
    save_basis(path, basis, {"data": data, "pictures": str(len(vectors))})
    kept = ", ".join(f"{basis.needed(share)} keep {share:.0%}" for share in (0.5, 0.9, 0.99))
    echo(f"{basis.dim} components of {len(vectors)} pictures: {kept} of the variance")
    echo(f"wrote {path}")
