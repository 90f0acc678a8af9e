"""`unclip pull MODEL`: a published model, downloaded to where the nodes find it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...unclip_core.checkpoints import catalog
from ...unclip_core.checkpoints.published import PUBLISHED, Published
from ..terminal import echo
from ._tables import print_table, size_text

if TYPE_CHECKING:
    from ...unclip_core.checkpoints.convert import Converted

EPILOG = """\b
Examples:
  unclip pull kandinsky-2-2
  unclip pull kandinsky-2-2 --dtype fp16 --to ~/models
  unclip pull someone/a-karlo
Interrupted, the same command goes on where it stopped. Without --to the model goes into ComfyUI's models/unclip if this
checkout lies in its custom_nodes, else into the first folder of $UNCLIP_MODELS that can be written, else into the
Hugging Face cache.
"""


@click.command(epilog=EPILOG, short_help="Download a model from Hugging Face.")
@click.argument("model", required=False)
@click.option("--list", "listing", is_flag=True, help="The names that can be pulled, and what they are for.")
@click.option("--dtype", type=click.Choice(["fp32", "bf16", "fp16"]), help="Store converted.  [default: as published]")
@click.option("--revision", help="Branch, tag or commit of OWNER/NAME.  [default: main]")
@click.option(
    "--from",
    "copies",
    metavar="PART=OWNER/NAME",
    multiple=True,
    help="Take a part from another repository; repeatable.",
)
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Model folder; the model gets a folder in it.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def command(
    model: str | None,
    listing: bool,
    dtype: str | None,
    revision: str | None,
    copies: tuple[str, ...],
    folder: Path | None,
    quiet: bool,
) -> int:
    """Download MODEL, a published name (`--list`) or a repository OWNER/NAME: only those files that an unCLIP needs,
    and check them. A model of several repositories is fetched part by part; what is installed already stays.
    """
    from ...nodes.host import current_host

    if listing:
        width = max(map(len, PUBLISHED))
        for found in PUBLISHED.values():
            echo(f"{found.name:{width}}  {found.about}{' (experimental)' if found.experimental else ''}")
        return 0
    if model is None:
        raise ValueError("pull: give a model, such as kandinsky-2-2; `unclip pull --list` shows all")
    hosts = current_host().model_folders()
    # None: the Hugging Face cache.
    root = catalog.writable_folder(hosts) if folder is None else folder.expanduser()
    if root is None and dtype is not None:
        raise ValueError(f"pull: --dtype needs a model folder; give --to, or set ${catalog.ENVIRONMENT}")
    if model in PUBLISHED:
        if revision is not None:
            raise ValueError(f"pull: --revision is for a repository; {model} is made of {_repositories(model)}")
        searched = catalog.search_path(hosts) if folder is None else [root]
        return _pull_published(PUBLISHED[model], _copies(copies), searched, root, dtype, quiet, hosts)
    if copies:
        raise ValueError(f"pull: --from is for a published name, and {model!r} is none; see `unclip pull --list`")
    return _pull_repository(model, revision, root, dtype, quiet, hosts)


def _repositories(name: str) -> str:
    return " and ".join(part.repository for part in PUBLISHED[name].parts)


def _copies(settings: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for setting in settings:
        name, equals, repository = setting.partition("=")
        if not equals or not repository:
            raise ValueError(f"pull: --from {setting!r} is not PART=OWNER/NAME, such as decoder=someone/a-copy")
        found[name] = repository
    return found


def _pull_published(
    model: Published,
    copies: dict[str, str],
    searched: list[Path],
    root: Path | None,
    dtype: str | None,
    quiet: bool,
    hosts: list[Path],
) -> int:
    from ...unclip_core.checkpoints.hub_parts import PartPlan, plan_parts, pull_parts

    planned = plan_parts(model, searched, dtype, copies)
    echo(f"{model.name}: {model.about}{' (experimental)' if model.experimental else ''}")
    rows = [("PART", "REPOSITORY", "LICENCE", "SIZE", "")]
    for entry in planned:
        where = f"installed in {entry.folder}" if entry.folder else f"to fetch, {len(entry.plan.files)} files"
        licence = entry.licence or "not named"
        rows.append((entry.part.name, entry.part.repository, licence, size_text(entry.size), where))
    print_table(rows)
    _warn_licences([entry.licence for entry in planned])
    missing = [entry for entry in planned if entry.plan]
    if missing:
        into = "the Hugging Face cache" if root is None else root
        echo(f"fetching {size_text(sum(entry.size for entry in missing))} into {into}")
    with contextlib.ExitStack() as bars:

        def bar_of(entry: PartPlan) -> tuple:
            bars.close()  # the bar of the part before
            bar = bars.enter_context(_Bar(quiet, entry.part.name))
            return bar, bar.converted

        places = pull_parts(model, planned, root, dtype, bar_of)
    for entry in missing:
        echo(f"wrote {places[entry.part.name]}")
    stacks = catalog.list_stacks(hosts if root is None else [*hosts, root])
    return _report(model.name, stacks.get(model.name), root, hosts)


def _pull_repository(
    repository: str, revision: str | None, root: Path | None, dtype: str | None, quiet: bool, hosts: list[Path]
) -> int:
    from ...unclip_core.checkpoints.hub import plan_pull
    from ...unclip_core.checkpoints.hub_files import pull

    plan = plan_pull(repository, revision, dtype)
    echo(f"{plan.repo} at {plan.commit[:12]}: {len(plan.files)} files, {size_text(plan.size)}")
    echo(f"licence: {plan.licence or 'not named'}")
    _warn_licences([plan.licence])
    with _Bar(quiet) as bar:
        where = pull(plan, root, dtype, bar, bar.converted)
    echo(f"wrote {where}")
    return _report(plan.name, catalog.read_stack(where), root, hosts)


def _warn_licences(licences: list[str | None]) -> None:
    """What the user should know of them before anything is fetched."""
    if any("RAIL" in (licence or "") for licence in licences):
        echo("  RAIL: the use restrictions also bind copies, conversions and models made from it")
    if None in licences:
        echo("  not named: the model card says no licence; read it before use")


def _report(name: str, entry: catalog.StackEntry | None, root: Path | None, hosts: list[Path]) -> int:
    """Say whether the model is whole, and what it goes by; exit code 1 if it is not."""
    problems = entry.problems if entry else ("none of its files is a stage",)
    for problem in problems:
        echo(f"error: {problem}", err=True)
    if problems:
        return 1
    echo(f"stages: {', '.join(entry.stages)}")
    if root is not None and root.resolve() not in [path.resolve() for path in catalog.search_path(hosts)]:
        echo(f"not on the search path yet: set {catalog.ENVIRONMENT}={root}")
    echo(f"model_name in Load unCLIP: {name}")
    return 0


class _Bar:
    """A bar of all bytes; called with (what, done, total). What is done before the first call counts as resumed."""

    def __init__(self, quiet: bool, name: str = "") -> None:
        self._quiet = quiet
        self._name = f"{name}: " if name else ""
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
        self._bar.set_description_str(f"{self._name}{what}", refresh=False)
        self._bar.update(done - self._bar.n)

    def converted(self, stage: Converted) -> None:
        """A stage has been stored; the download is over."""
        self.__exit__()
        echo(f"converted {stage.stage} ({stage.number} of {stage.total}): {size_text(stage.bytes)}")
