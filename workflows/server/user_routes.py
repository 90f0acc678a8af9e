"""What the page keeps: saved workflows and other files (/userdata), and its settings (/settings, /users).

The folder has the layout of ComfyUI's user/default/, so that moving there is copying it.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from ...nodes.files import write_whole
from ...unclip_core.disk import size_text
from ...unclip_core.texts import shown
from .editor import Editor
from .json_text import from_json
from .requests import bad_request, json_response, path_of, read_body, read_json, read_json_object

_LOG = logging.getLogger(__name__)
SETTINGS = "comfy.settings.json"
WORKFLOWS = "workflows"
STYLE = "user.css"
# The tour and the news are of a service that this editor is not. A graph of this pack fits a small screen: its words
# are to be read there, without the map, the counters and the pack's name, the same on every node, lying over it.
FIRST_SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
    "LiteGraph.Canvas.MinFontSizeForLOD": 3,
}
MAX_SETTINGS = 1 << 20  # bytes, of all: each change reads and writes them whole
_TYPES = {".json": "application/json", ".css": "text/css"}


def routes() -> Iterator[tuple[str, str, Any]]:
    """(method, path, handler) of every address."""
    yield "GET", "/users", users
    yield "GET", "/settings", get_settings
    yield "POST", "/settings", save_settings
    yield "GET", "/settings/{id}", get_setting
    yield "POST", "/settings/{id}", save_setting
    yield "GET", "/userdata", list_files
    yield "GET", "/userdata/{file}", get_file
    yield "POST", "/userdata/{file}", save_file
    yield "DELETE", "/userdata/{file}", delete_file
    yield "POST", "/userdata/{file}/move/{to}", move_file


async def users(editor: Editor, request: web.Request) -> web.Response:
    return json_response({"storage": "server", "migrated": True})


async def get_settings(editor: Editor, request: web.Request) -> web.Response:
    return json_response(await editor.in_thread(_read_settings, editor))


async def save_settings(editor: Editor, request: web.Request) -> web.Response:
    await editor.in_thread(_keep_settings, editor, await read_json_object(request))
    return json_response({})


async def get_setting(editor: Editor, request: web.Request) -> web.Response:
    kept = await editor.in_thread(_read_settings, editor)
    return json_response(kept.get(request.match_info["id"]))


async def save_setting(editor: Editor, request: web.Request) -> web.Response:
    await editor.in_thread(_keep_settings, editor, {request.match_info["id"]: await read_json(request)})
    return json_response({})


async def list_files(editor: Editor, request: web.Request) -> web.Response:
    """The files of a folder: `recurse`, `split` into path parts, or `full_info` with size and times."""
    name = request.query.get("dir", "")
    if not name:
        raise bad_request("give dir")
    folder = _path(editor, name)
    if not folder.is_dir():
        raise web.HTTPNotFound(text=f"there is no folder {name!r}")
    asked = {word for word in ("recurse", "split", "full_info") if request.query.get(word, "").lower() == "true"}
    files = sorted(path for path in folder.glob("**/*" if "recurse" in asked else "*") if path.is_file())
    if "full_info" in asked:
        return json_response([_info(path, folder) for path in files])
    names = [path.relative_to(folder).as_posix() for path in files]
    return json_response([[one, *one.split("/")] for one in names] if "split" in asked else names)


async def get_file(editor: Editor, request: web.Request) -> web.StreamResponse:
    if request.match_info["file"] == STYLE and not (editor.user / STYLE).is_file():
        return web.Response(content_type=_TYPES[".css"])  # the page asks for it always, and complains of none
    path = _existing(editor, request)
    kind = _TYPES.get(path.suffix.lower(), "application/octet-stream")
    return web.FileResponse(path, headers={"Content-Type": kind, "Cache-Control": "no-cache"})


async def save_file(editor: Editor, request: web.Request) -> web.Response:
    path, data = _path(editor, request.match_info["file"]), await read_body(request, editor.max_upload)
    await _written(editor, path, data, _may_overwrite(request))
    return json_response(_saved(editor, path, request))


async def delete_file(editor: Editor, request: web.Request) -> web.Response:
    _existing(editor, request).unlink()
    return web.Response(status=204)


async def move_file(editor: Editor, request: web.Request) -> web.Response:
    path, target = _existing(editor, request), _path(editor, request.match_info["to"])
    if target != path:
        await _written(editor, target, path.read_bytes(), _may_overwrite(request))
        path.unlink()
    return json_response(_saved(editor, target, request))


def _path(editor: Editor, name: str) -> Path:
    """A path in the user folder, below it."""
    path = path_of(editor.user, name)
    if path == editor.user.resolve():
        raise bad_request("give a file's name")
    return path


def _existing(editor: Editor, request: web.Request) -> Path:
    path = _path(editor, request.match_info["file"])
    if not path.is_file():
        raise web.HTTPNotFound(text=f"there is no file {path.name!r}")
    return path


def _may_overwrite(request: web.Request) -> bool:
    return request.query.get("overwrite", "true").lower() != "false"


async def _written(editor: Editor, path: Path, data: bytes, overwrite: bool) -> None:
    try:
        await editor.in_thread(write_whole, path, data, overwrite)
    except FileExistsError:
        raise web.HTTPConflict(text=f"{path.name!r} exists") from None
    except OSError as error:
        raise bad_request(f"{path.name!r} cannot be saved: {error.strerror or error}") from None


def _saved(editor: Editor, path: Path, request: web.Request) -> Any:
    """How the page is told of a file that was saved: its path, or with `full_info` size and times too."""
    root = editor.user.resolve()
    full = request.query.get("full_info", "").lower() == "true"
    return _info(path, root) if full else path.relative_to(root).as_posix()


def _info(path: Path, root: Path) -> dict[str, Any]:
    found = path.stat()
    return {
        "path": path.relative_to(root).as_posix(),
        "size": found.st_size,
        "modified": int(found.st_mtime * 1000),
        "created": int(found.st_ctime * 1000),
    }


def _settings(editor: Editor) -> dict[str, Any]:
    """What is kept, over FIRST_SETTINGS. A file that cannot be read is set aside, and that is said."""
    path = editor.user / SETTINGS
    try:
        kept = from_json(path.read_bytes())
        if not isinstance(kept, dict):
            raise ValueError("it is not a table of settings")
    except FileNotFoundError:
        return dict(FIRST_SETTINGS)
    except ValueError as error:
        aside = next(name for number in itertools.count(1) if not (name := _aside(path, number)).exists())
        os.replace(path, aside)
        _LOG.warning("%s cannot be read: %s; it is kept as %s, and the page begins anew", path, error, aside.name)
        return dict(FIRST_SETTINGS)
    return FIRST_SETTINGS | kept


def _aside(path: Path, number: int) -> Path:
    return path.with_suffix(f".unreadable-{number}.json")


def _read_settings(editor: Editor) -> dict[str, Any]:
    with editor.settings_lock:
        return _settings(editor)


def _keep_settings(editor: Editor, changed: dict[str, Any]) -> None:
    """Write the settings with some changed. One request after another, so that none is lost.

    Raises a 400 for more than MAX_SETTINGS, unless a file that somebody put there becomes no larger by it.
    """
    with editor.settings_lock:
        before = _settings(editor)
        after = before | changed
        data = _as_stored(after)
        if len(data) > MAX_SETTINGS and len(data) > len(_as_stored(before)):
            largest = max(after, key=lambda name: len(_as_stored(after[name])))
            raise bad_request(
                f"the settings would take {size_text(len(data))}, and at most {size_text(MAX_SETTINGS)} are kept; keep "
                f"less in them (the largest is {shown(largest)}, {size_text(len(_as_stored(after[largest])))})"
            )
        write_whole(editor.user / SETTINGS, data, True)


def _as_stored(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "replace")
