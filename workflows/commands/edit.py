"""`unclip edit`: the drag-and-drop editor in the browser, without ComfyUI."""

from __future__ import annotations

import asyncio
import importlib.util
import webbrowser
from pathlib import Path

import click

from ..terminal import echo, echo_lines
from ._options import nodes_option

_MIN_TOKEN = 16
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(short_help="Edit and run graphs in the browser.")
@click.option("--port", default=8189, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option(
    "-i", "--input", "input_folder", default="input", show_default=True, type=_FOLDER, help="Uploaded pictures."
)
@click.option("-o", "--output", default="out", show_default=True, type=_FOLDER, help="Where pictures are saved.")
@click.option(
    "-u", "--user", default="user", show_default=True, type=_FOLDER, help="Saved graphs (in workflows/) and settings."
)
@nodes_option
@click.option(
    "--listen",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Another address than this machine's own needs --token. The connection is not encrypted.",
)
@click.option(
    "--token",
    envvar="UNCLIP_EDIT_TOKEN",
    metavar="TEXT",
    help=f"Only who knows it may in; {_MIN_TOKEN} characters or more. Also read from UNCLIP_EDIT_TOKEN.",
)
@click.option("--frontend", type=_FOLDER, help="The static folder of another comfyui-frontend-package.")
def command(
    port: int,
    no_browser: bool,
    input_folder: Path,
    output: Path,
    user: Path,
    nodes: tuple[Path, ...],
    listen: str,
    token: str | None,
    frontend: Path | None,
) -> int:
    """Open the stock ComfyUI page in the browser, with the nodes of this pack and nothing else to install.

    Graphs run in this process, one after another; Ctrl-C ends it. For other nodes and models move to ComfyUI: put this
    pack into its custom_nodes, and the saved graphs into its user/default/workflows.
    """
    if importlib.util.find_spec("aiohttp") is None:
        raise ValueError("unclip edit needs aiohttp and the editor's page; run: pip install 'unclip[editor]'")
    from ..server.app import Settings, serve
    from ..server.guard import is_loopback

    _check_access(listen, token, is_loopback(listen))

    def ready(address: str) -> None:
        echo(f"unCLIP editor, with the nodes of this pack alone: {address}")
        echo(f"pictures in {output}, graphs in {user / 'workflows'}; Ctrl-C ends it")
        if not no_browser:
            webbrowser.open(address)

    settings = Settings(output, input_folder, user, listen, port, token, nodes, frontend)
    try:
        asyncio.run(serve(settings, ready))
    except KeyboardInterrupt:
        echo_lines("\nthe editor is closed; saved files are whole")
    return 0


def _check_access(listen: str, token: str | None, alone: bool) -> None:
    """Raises ValueError when others could come in."""
    if not alone and token is None:
        raise ValueError(f"--listen {listen}: others could reach this editor; add --token with a long random text")
    if token is not None and (len(token) < _MIN_TOKEN or not token.isalnum() or not token.isascii()):
        raise ValueError(f"--token: give {_MIN_TOKEN} or more letters and digits, so that it cannot be guessed")
