"""`unclip show`: what can be set in a graph."""

from __future__ import annotations

from pathlib import Path

import click

from ...unclip_core.texts import json_text
from ..document.reading import load_workflow
from ..engine.node_packs import known_classes
from ..settings.reading import Setting, settings
from ..terminal import echo
from ._options import nodes_option
from ._tables import print_table


@click.command(short_help="List what can be set in a graph.")
@click.argument("file")
@nodes_option
@click.option("--json", "as_json", is_flag=True, help="One JSON line per value.")
def command(file: str, nodes: tuple[Path, ...], as_json: bool) -> None:
    """List the values of FILE that `unclip run FILE -s NAME=VALUE` can set: NAME, value, what it takes, node id.
    FILE: a saved graph, or the name of one that comes with the pack."""
    available = settings(load_workflow(file), known_classes(nodes))
    if as_json:
        for setting in available:
            echo(json_text(_entry(setting)))
        return
    if not available:
        echo("nothing in this graph can be set")
        return
    rows = [("NAME", "VALUE", "TAKES", "NODE"), *(_row(setting) for setting in available)]
    print_table(rows)


def _entry(setting: Setting) -> dict:
    spec = setting.spec
    bounds = {name: spec.options[name] for name in ("min", "max") if name in spec.options}
    choices = {"choices": list(spec.choices)} if spec.choices is not None else {}
    entry = {"name": setting.name, "node": setting.node_id, "input": spec.name, "type": spec.type}
    return entry | {"value": setting.value, "linked": setting.linked} | bounds | choices


def _row(setting: Setting) -> tuple[str, str, str, str]:
    value = "(linked)" if setting.linked else _short(repr(setting.value), 44)
    return setting.name, value, _short(setting.spec.range_text(), 44), setting.node_id


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
