"""`unclip models`: what is installed, and whether its files are sound."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from ...unclip_core.checkpoints import catalog
from ...unclip_core.checkpoints.diffusers_folder import read_licence
from ...unclip_core.checkpoints.hub import licence_title
from ...unclip_core.checkpoints.published import PUBLISHED
from ...unclip_core.config import STAGES
from ...unclip_core.texts import json_text
from ..checks.stacks import reasons, shipped_graphs
from ..document.schema import NodeClasses, node_classes
from ..terminal import echo, echo_lines
from ._tables import print_table, size_text

_COLUMNS = ("NAME", "STAGES", "DTYPE", "SIZE", "LICENCE", "GRAPHS", "FOLDER")


@click.command(short_help="List installed models; check their files.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--verify", "check", is_flag=True, help="Read every file: complete, finite, shapes that fit the config.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def command(names: tuple[str, ...], check: bool, as_json: bool) -> int:
    """List installed models: stages, dtype, size, licence, how many of the shipped graphs each runs, folder, and what
    is wrong. Of those called NAME also each stage, and which graphs it runs or why not.

    With --verify the exit code is 1 if a file is damaged; 2, as always, if there is no model called NAME.
    """
    from ...nodes.host import current_host

    folders = current_host().model_folders()
    entries = choose(names, folders)
    reports = {entry.name: describe(entry, folders) for entry in entries}
    if check:
        for entry in entries:
            reports[entry.name]["problems"] = _verify(entry, quiet=as_json)
    if as_json:
        echo_lines(json_text(list(reports.values()), indent=2))
    else:
        _print_table(list(reports.values()), detailed=bool(names))
        for report in reports.values():
            for problem in report["problems"]:
                echo(f"{report['name']}: {_line(problem)}", err=check)
            if check and not report["problems"]:
                echo(f"{report['name']}: ok")
        if not names and not check:
            installed = catalog.list_stacks(folders)
            if more := [name for name in PUBLISHED if name not in installed]:
                echo(f"more with `unclip pull NAME`: {', '.join(more)}")
            echo(f"searched: {', '.join(map(str, catalog.search_path(folders)))}")
    return 1 if check and any(report["problems"] for report in reports.values()) else 0


def choose(names: Sequence[str], folders: Sequence) -> list[catalog.StackEntry]:
    """The stacks called `names`, or all. Raises ValueError for a name that none has."""
    stacks = catalog.list_stacks(folders)
    if unknown := [name for name in names if name not in stacks]:
        raise ValueError(f"models: no model {unknown[0]!r}; installed: {', '.join(stacks) or 'none'}")
    return [stacks[name] for name in (dict.fromkeys(names) if names else stacks)]


def describe(entry: catalog.StackEntry, folders: Sequence = ()) -> dict:
    """A stack as JSON has it. Problems are objects with file, key, expected and found, or lines of text; graphs are
    the shipped ones by name, with the reasons why it cannot run them. folders: the host's."""
    classes = NodeClasses(node_classes())
    stages = {
        name: {
            "parameters": stage.parameters,
            "dtype": stage.dtype,
            "bytes": sum(path.stat().st_size for path in stage.files),
            "files": [str(path) for path in stage.files],
        }
        for name, stage in sorted(entry.stages.items(), key=lambda item: STAGES.index(item[0]))
    }
    licences = dict.fromkeys(stage.licence for stage in entry.stages.values() if stage.licence)
    return {
        "name": entry.name,
        "folder": str(entry.folder),
        "layout": entry.layout,
        "experimental": entry.experimental,
        "stages": stages,
        "parameters": sum(stage["parameters"] for stage in stages.values()),
        "bytes": sum(path.stat().st_size for path in {path for stage in entry.stages.values() for path in stage.files}),
        "dtypes": list(dict.fromkeys(stage["dtype"] for stage in stages.values())),
        "licence": ", ".join(map(licence_title, licences)) or licence_title(read_licence(entry.folder)),
        "graphs": {}
        if entry.problems
        else {name: reasons(graph, entry, classes, folders) for name, graph in shipped_graphs().items()},
        "problems": list(entry.problems),
    }


def _verify(entry: catalog.StackEntry, quiet: bool) -> list[dict | str]:
    import dataclasses

    from tqdm import tqdm

    from ...unclip_core.checkpoints.verify import verify_stack

    with tqdm(unit="B", unit_scale=True, dynamic_ncols=True, desc=entry.name, disable=quiet or None) as bar:

        def tick(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return [dataclasses.asdict(problem) for problem in verify_stack(entry, tick)]


def _line(problem: dict | str) -> str:
    if isinstance(problem, str):
        return problem
    key = f"{problem['key']}: " if problem["key"] else ""
    expected = f", expected {problem['expected']}" if problem["expected"] else ""
    return f"{problem['file']}: {key}{problem['found']}{expected}"


def _print_table(reports: list[dict], detailed: bool) -> None:
    rows = [_COLUMNS]
    for report in reports:
        dtypes, licence = "/".join(report["dtypes"]) or "-", report["licence"] or "not named"
        stages = "broken" if report["problems"] and not report["stages"] else _stages(report)
        graphs = f"{sum(not found for found in report['graphs'].values())} of {len(report['graphs'])}"
        size = size_text(report["bytes"]) if report["stages"] else "-"
        cells = (report["name"], stages, dtypes, size, licence, graphs if report["graphs"] else "-")
        rows.append((*cells, report["folder"]))
        for name, stage in report["stages"].items() if detailed else ():
            size = size_text(stage["bytes"])
            parameters = f"{_count(stage['parameters'])} parameters"
            rows.append(("", name, stage["dtype"], size, parameters, "", _files(report, stage)))
    print_table(rows)
    for report in reports if detailed else ():
        width = max(map(len, report["graphs"]), default=0)
        for name, found in report["graphs"].items():
            verdict = f"cannot run {name:{width}}  {'; '.join(found)}" if found else f"runs       {name}"
            echo(f"{report['name']} {verdict}")


def _stages(report: dict) -> str:
    marks = [
        mark for mark, holds in (("broken", report["problems"]), ("experimental", report["experimental"])) if holds
    ]
    return " ".join([*report["stages"], *(f"({mark})" for mark in marks)])


def _files(report: dict, stage: dict) -> str:
    folder = Path(report["folder"])
    return ", ".join(
        os.path.relpath(path, folder if folder in Path(path).parents else folder.parent) for path in stage["files"]
    )


def _count(number: int) -> str:
    """12.3 M and the like."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)
