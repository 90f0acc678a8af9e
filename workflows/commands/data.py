"""`unclip data SOURCE`: what training would find there, before the first step."""

from __future__ import annotations

from pathlib import Path

import click

from ..terminal import echo, echo_lines
from ._options import cache_option

EPILOG = """\b
Examples:
  unclip data photos/ -o sheet.png
  unclip data 'shards/{000..011}.tar' --clip storybook
"""

SHEETS = (".png", ".jpg", ".webp")


@click.command(epilog=EPILOG)
@click.argument("source")
@click.option("--clip", "stack", help="Installed model: which words would its CLIP not know?")
@click.option("--pictures", default=256, show_default=True, type=click.IntRange(1), help="Scenes of storybook:.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="PNG: pictures beside what 64 px leave of them.")
@click.option("--json", "as_json", is_flag=True, help="Everything, every name included, as JSON.")
@cache_option
def command(source, stack, pictures, output, as_json, cache) -> None:
    """Read all of SOURCE and report: rows kept, skipped and why, captions, words, sizes.

    SOURCE is a folder of pictures with .txt captions or a metadata.jsonl or .csv, WebDataset shards (.tar, a glob of
    them), a folder of clip-retrieval's embeddings, or storybook:.
    """
    from ...nodes.host import current_host
    from ...unclip_core.checkpoints.catalog import find
    from ...unclip_core.stack import load_stack
    from ...unclip_core.training import survey
    from ._fitting import open_pictures

    if output and output.suffix.lower() not in SHEETS:
        raise ValueError(f"--output {output}: a picture; end its name in {' or '.join(SHEETS)}")
    if output and not output.expanduser().parent.is_dir():
        raise ValueError(f"--output {output}: there is no folder {output.parent}; make it first")
    clip = load_stack(find(stack, current_host().model_folders()), "fp32").clip if stack else None
    data = open_pictures(source, cache, pictures, seed=1)
    found = survey.survey(data, source, clip)
    echo_lines(survey.as_json(found) if as_json else survey.report(found))
    if output:
        survey.contact_sheet(data, output)
        echo(f"wrote {output}", err=as_json)
