"""`unclip convert SRC DST`: other people's files -> a folder that Load unCLIP finds."""

from __future__ import annotations

from pathlib import Path

import click

from ..terminal import echo

EPILOG = """\b
Examples:
  unclip convert ~/karlo-v1-alpha models/unclip/karlo --dtype bf16
  unclip convert ~/downloads/karlo models/unclip/karlo
\b
SRC is a diffusers folder of Karlo or Kandinsky (the prior's or decoder's, beside the other), or a
folder of original files. Karlo's: the prior's, decoder's and super-resolution's .ckpt,
ViT-L-14_stats.th and ViT-L-14.pt. Kandinsky 2.1's: prior_fp16.ckpt, decoder_fp16.ckpt or
inpainting_fp16.ckpt, movq_final.ckpt, the folder text_encoder, and the same two of CLIP. Pickles are
read as tensors alone; one with code in it is refused.
"""


@click.command(epilog=EPILOG)
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option(
    "--dtype",
    type=click.Choice(("keep", "fp32", "bf16", "fp16")),
    default="keep",
    show_default=True,
    help="What weights are stored as; biases and norms keep theirs.",
)
@click.option(
    "--follow",
    type=click.Choice(("files", "karlo", "diffusers")),
    default="files",
    show_default=True,
    help="Whose prior, where they differ: x_0 clamped at 10 (Karlo's source) or 5 (diffusers).",
)
def command(source: Path, target: Path, dtype: str, follow: str) -> None:
    """Write the model in folder SRC as the folder DST of safetensors files, one per stage."""
    from tqdm import tqdm

    from ...unclip_core.checkpoints.convert import convert

    with tqdm(total=0, unit="stage", dynamic_ncols=True, desc=f"convert {source.name}") as bar:
        for done in convert(source, target, dtype, follow):
            bar.total = done.total
            bar.update(done.number - bar.n)
            bar.set_postfix_str(f"{done.stage} {done.bytes / 1e9:.2f} GB")
    echo(f"wrote {target}")
