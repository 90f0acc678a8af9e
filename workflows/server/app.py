"""The editor's server: its addresses and limits, its start and its stop."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from ...nodes.host import LocalHost
from ..engine.node_packs import known_classes
from . import pack_routes, picture_routes, run_routes, user_routes
from .editor import Editor
from .failures import answer_failures, parser_log
from .guard import Guard, add_headers
from .pack_routes import feature_flags
from .pages import Pages
from .worker import Worker

MAX_UPLOAD = 64 << 20  # bytes of one request: a picture, a saved graph, a prompt
_SOCKETS = 4096
_FRONTEND = "comfyui_frontend_package"


@dataclass(frozen=True)
class Settings:
    """What the command line says. The folders are made when they are first written to."""

    output: Path = Path("out")
    input: Path = Path("input")
    user: Path = Path("user")
    listen: str = "127.0.0.1"
    port: int = 8189  # 0: any that is free
    token: str | None = None
    nodes: tuple[Path, ...] = ()
    page: Path | None = None  # the frontend's files; None: the installed package's


def frontend_folder() -> Path:
    """The files of the installed frontend. Raises ValueError when there is none."""
    found = importlib.util.find_spec(_FRONTEND)
    for place in (found.submodule_search_locations or []) if found else []:
        if (Path(place) / "static" / "index.html").is_file():
            return Path(place) / "static"
    raise ValueError("the editor's page is not installed; run: pip install 'unclip[editor]'")


def make_editor(settings: Settings) -> Editor:
    """The queue, the nodes and the folders. Raises WorkflowError for a pack that does not load, ValueError."""
    page = settings.page or frontend_folder()
    if not (page / "index.html").is_file():
        raise ValueError(f"--frontend {page}: has no index.html; give the static folder of a comfyui-frontend-package")
    classes = known_classes(settings.nodes)
    host = editor_host(settings.output, settings.input)
    pages = Pages(feature_flags(MAX_UPLOAD))
    worker = Worker(classes, host, pages)
    (settings.user / user_routes.WORKFLOWS).mkdir(parents=True, exist_ok=True)
    return Editor(classes, host, worker, pages, settings.user, page, MAX_UPLOAD)


def editor_host(output: Path, input: Path) -> LocalHost:
    """The host of the editor's runs and answers. A graph may be a stranger's, and so may the page: no link leads out of
    the folders."""
    host = LocalHost(output, input, quiet=True, follow_links=False)
    host.folder("temp")  # made before two threads can ask for it at once
    return host


def make_app(editor: Editor, guard: Guard) -> web.Application:
    """The application. It starts the worker, and stops it at its own end."""
    app = web.Application(middlewares=[answer_failures, guard.middleware()], client_max_size=MAX_UPLOAD)
    app.on_response_prepare.append(add_headers)
    for method, path, handler in _routes():
        # The page asks below /api, scripts and `unclip run --server` without it.
        app.router.add_route(method, path, partial(handler, editor))
        app.router.add_route(method, f"/api{path}", partial(handler, editor))
    for method, path, handler in pack_routes.page_routes():
        app.router.add_route(method, path, partial(handler, editor))
    app.router.add_get("/", partial(_index, editor))
    app.router.add_static("/", editor.page)

    async def start(app: web.Application) -> None:
        editor.worker.start()

    async def leave(app: web.Application) -> None:
        await editor.pages.close()

    async def stop(app: web.Application) -> None:
        editor.pictures.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(editor.worker.stop)
        editor.host.close()

    app.on_startup.append(start)
    app.on_shutdown.append(leave)
    app.on_cleanup.append(stop)
    return app


async def serve(settings: Settings, ready: Callable[[str], None]) -> None:
    """Run until cancelled. `ready(address)` is called when the page can be opened. Raises ValueError."""
    _allow_sockets()
    guard = Guard(settings.listen, settings.token)
    runner = web.AppRunner(
        make_app(make_editor(settings), guard), access_log=None, logger=parser_log(), shutdown_timeout=1.0
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.listen, settings.port)
        try:
            await site.start()
        except OSError as error:
            reason = f"cannot listen on {settings.listen} port {settings.port}: {error.strerror or error}"
            raise ValueError(f"{reason}; choose another with --port") from None
        port = runner.addresses[0][1]
        query = "" if settings.token is None else f"?token={settings.token}"
        ready(f"http://{_shown_host(settings.listen)}:{port}/{query}")
        await asyncio.Event().wait()
    finally:
        with suppress(Exception):
            await runner.cleanup()


def _allow_sockets() -> None:
    """Ask for as many open files as the system gives this process: it starts with some 256 or 1024, and each page that
    is open holds one."""
    with suppress(ImportError, ValueError, OSError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _SOCKETS if hard == resource.RLIM_INFINITY else min(_SOCKETS, hard)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _shown_host(listen: str) -> str:
    """What to write into an address: all addresses of a machine are none that a browser opens."""
    if listen in ("0.0.0.0", "::", ""):
        return socket.gethostname()
    return f"[{listen}]" if ":" in listen and not listen.startswith("[") else listen


def _routes() -> Iterator[tuple[str, str, Any]]:
    for module in (run_routes, picture_routes, user_routes, pack_routes):
        yield from module.routes()


async def _index(editor: Editor, request: web.Request) -> web.FileResponse:
    return web.FileResponse(editor.page / "index.html", headers={"Cache-Control": "no-cache"})
