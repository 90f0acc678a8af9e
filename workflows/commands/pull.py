"""`unclip pull REPOSITORY`: a published model, downloaded to where the nodes find it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...unclip_core.checkpoints import catalog

if TYPE_CHECKING:
    from ...unclip_core.checkpoints.convert import Converted

EPILOG = """\b
Examples:
  unclip pull kakaobrain/karlo-v1-alpha
  unclip pull kakaobrain/karlo-v1-alpha --dtype bf16 --to ~/models
Interrupted, the same command goes on where it stopped. Without --to the model goes into ComfyUI's models/unclip if this
checkout lies in its custom_nodes, else into the first folder of $UNCLIP_MODELS that can be written, else into the
Hugging Face cache.
"""


@click.command(epilog=EPILOG, short_help="Download a model from Hugging Face.")
@click.argument("repository")
@click.option("--dtype", type=click.Choice(["fp32", "bf16", "fp16"]), help="Store converted.  [default: as published]")
@click.option("--revision", help="Branch, tag or commit.  [default: main]")
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Model folder; the model gets a folder in it.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def command(repository: str, dtype: str | None, revision: str | None, folder: Path | None, quiet: bool) -> int:
    """Download only those files of REPOSITORY (owner/name) that an unCLIP needs, and check them."""
    from ...nodes.host import current_host
    from ...unclip_core.checkpoints.hub import plan_pull
    from ...unclip_core.checkpoints.hub_files import pull

    hosts = current_host().model_folders()
    # None: the Hugging Face cache.
    root = catalog.writable_folder(hosts) if folder is None else folder.expanduser()
    if root is None and dtype is not None:
        raise ValueError(f"pull: --dtype needs a model folder; give --to, or set ${catalog.ENVIRONMENT}")
    plan = plan_pull(repository, revision, dtype)
    licence = plan.licence or "not named by its model card; read it before use"
    click.echo(f"{plan.repo} at {plan.commit[:12]}: {len(plan.files)} files, {size_text(plan.size)}")
    click.echo(f"licence: {licence}")
    if "RAIL" in licence:
        click.echo("  its use restrictions also bind copies, conversions and models made from it")
    with _Bar(quiet) as bar:
        where = pull(plan, root, dtype, bar, bar.converted)
    return _report(plan.name, where, root, hosts)


def _report(name: str, where: Path, root: Path | None, hosts: list[Path]) -> int:
    """Say where the model is and whether it is whole; exit code 1 if not."""
    click.echo(f"wrote {where}")
    entry = catalog.read_stack(where)
    problems = entry.problems if entry else ("none of its files is a stage",)
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    if problems:
        return 1
    click.echo(f"stages: {', '.join(entry.stages)}")
    if root is not None and root.resolve() not in [path.resolve() for path in catalog.search_path(hosts)]:
        click.echo(f"not on the search path yet: set {catalog.ENVIRONMENT}={root}")
    click.echo(f"model_name in Load unCLIP: {name}")
    return 0


def size_text(count: int) -> str:
    """A number of bytes for people."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


class _Bar:
    """A bar of all bytes; called with (what, done, total). What is done before the first call counts as resumed."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *failure) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            look = {"unit": "B", "unit_scale": True, "dynamic_ncols": True, "disable": self._quiet}
            self._bar = tqdm(total=total, initial=done, **look)
        self._bar.set_description_str(what, refresh=False)
        self._bar.update(done - self._bar.n)

    def converted(self, stage: Converted) -> None:
        """A stage has been stored; the download is over."""
        self.__exit__()
        click.echo(f"converted {stage.stage} ({stage.number} of {stage.total}): {size_text(stage.bytes)}")
