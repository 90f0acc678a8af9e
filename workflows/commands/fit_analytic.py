"""`unclip fit-analytic`: what the sampler analytic_ddpm needs to know of a diffusion prior."""

from __future__ import annotations

import random
from pathlib import Path

import click

from ..terminal import echo
from ._options import cache_option

EPILOG = """\b
Example:
  unclip fit-analytic --prior karlo-v1-alpha --data photos/
\b
The pictures need captions beside them (.txt). A hundred pairs are enough.
"""


@click.command(epilog=EPILOG)
@click.option("--prior", "stack", default="storybook", show_default=True, help="Installed model whose prior it is for.")
@click.option("--data", default="storybook", show_default=True, help="Rendered scenes, a folder, or .tar shards.")
@click.option("--pairs", default=128, show_default=True, type=click.IntRange(1), help="Pictures with captions.")
@click.option("--seed", default=1, show_default=True, type=int, help="Of pictures, captions and noise.")
@cache_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="[default: a model folder that can be written]")
def command(stack, data, pairs, seed, cache, output) -> None:
    """Measure the prior's noise at every timestep, and write it as <model>.analytic.safetensors."""
    import torch

    from ...nodes.host import current_host
    from ...unclip_core.checkpoints.catalog import ANALYTIC, find
    from ...unclip_core.checkpoints.tables import save_noise_powers
    from ...unclip_core.stack import load_stack
    from ...unclip_core.training.embeddings import embed_rows
    from ...unclip_core.training.fit_analytic import fit_noise_powers
    from ...unclip_core.types import Embedding
    from ._fitting import open_pictures, table_path, with_bar

    entry = find(stack, current_host().model_folders())
    path = table_path(output, stack, ANALYTIC)
    handles = load_stack(entry, "fp32")
    clip, prior = handles.clip, handles.prior
    rows = open_pictures(data, cache, pairs, seed)
    chosen = sorted(random.Random(seed).sample(range(len(rows)), min(pairs, len(rows))))
    with torch.inference_mode():
        text = clip.encode_text(rows.captions(chosen, random.Random(seed)))
        image = Embedding(embed_rows(clip, rows, chosen), clip.clip_id, "image")
        powers = with_bar(fit_noise_powers(prior, text, image, seed), "measure", "timestep")
    save_noise_powers(path, powers, prior.config.prior_id, {"data": data, "pairs": str(len(chosen))})
    echo(f"wrote {path}")
