"""What the page asks about nodes, graphs and words: /object_info, /workflow_templates, /i18n, /extensions and more."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from aiohttp import web

from ...nodes.host import CHECKOUT
from ...unclip_core.checkpoints import catalog
from ..document.reading import BLUEPRINTS, SHIPPED, shipped_names
from .editor import Editor
from .object_info import PACK, describe_all
from .requests import json_response, path_of

_WEB = CHECKOUT / "web"
_LOCALES = CHECKOUT / "locales"
_OWN = Path(__file__).parent / "page"
_OWN_NAME = "unclip-edit"
_SERVED = {".md", ".png", ".jpg", ".webp", ".gif", ".js", ".css", ".json"}


def routes() -> Iterator[tuple[str, str, Any]]:
    """(method, path, handler) of every address."""
    yield "GET", "/object_info", object_info
    yield "GET", "/object_info/{name}", object_info_of
    yield "GET", "/workflow_templates", list_templates
    yield "GET", f"/workflow_templates/{PACK}/{{file}}", get_template
    yield "GET", "/i18n", translations
    yield "GET", "/extensions", list_extensions
    yield "GET", "/system_stats", system_stats
    yield "GET", "/features", features
    yield "GET", "/models", model_kinds
    yield "GET", "/models/{kind}", models
    yield "GET", "/experiment/models", nothing
    yield "GET", "/embeddings", nothing
    yield "GET", "/global_subgraphs", list_blueprints
    yield "GET", "/global_subgraphs/{name}", get_blueprint
    yield "GET", "/node_replacements", no_entries


def page_routes() -> Iterator[tuple[str, str, Any]]:
    """Addresses outside /api."""
    yield "GET", "/user.css", no_style
    yield "GET", "/templates/{file}", nothing  # the editor's own gallery is for nodes that are not here
    yield "GET", f"/extensions/{PACK}/{{file:.+}}", get_web_file
    yield "GET", f"/extensions/{_OWN_NAME}/{{file}}", get_own_file


async def object_info(editor: Editor, request: web.Request) -> web.Response:
    return json_response(await editor.in_thread(describe_all, editor.classes))


async def object_info_of(editor: Editor, request: web.Request) -> web.Response:
    name = request.match_info["name"]
    known = {name: editor.classes[name]} if name in editor.classes else {}
    return json_response(await editor.in_thread(describe_all, known))


async def list_templates(editor: Editor, request: web.Request) -> web.Response:
    return json_response({PACK: shipped_names()})


async def get_template(editor: Editor, request: web.Request) -> web.StreamResponse:
    return _file(SHIPPED, request.match_info["file"], {".json", ".jpg"})


async def list_blueprints(editor: Editor, request: web.Request) -> web.Response:
    """The subgraph blueprints that the page offers among the nodes, by the id that it asks for them under."""
    entry = {"source": "custom_node", "info": {"node_pack": f"custom_nodes.{PACK}"}}
    names = sorted(path.stem for path in BLUEPRINTS.glob("*.json"))
    return json_response({name: entry | {"name": name} for name in names})


async def get_blueprint(editor: Editor, request: web.Request) -> web.Response:
    name = request.match_info["name"]
    path = next((path for path in BLUEPRINTS.glob("*.json") if path.stem == name), None)
    if path is None:
        raise web.HTTPNotFound(text=f"there is no blueprint {name!r}")
    text = await editor.in_thread(path.read_text, "utf-8")
    return json_response({"source": "custom_node", "name": name, "data": text})


async def translations(editor: Editor, request: web.Request) -> web.Response:
    """Our words by language, in the page's shape: main.json at the top, the other files under their names."""
    return json_response({folder.name: _words(folder) for folder in sorted(_LOCALES.iterdir()) if folder.is_dir()})


async def list_extensions(editor: Editor, request: web.Request) -> web.Response:
    ours = [f"/extensions/{PACK}/{path.relative_to(_WEB).as_posix()}" for path in sorted(_WEB.rglob("*.js"))]
    return json_response([*(f"/extensions/{_OWN_NAME}/{path.name}" for path in sorted(_OWN.glob("*.js"))), *ours])


async def system_stats(editor: Editor, request: web.Request) -> web.Response:
    """Facts for the About page. It says whose editor this is where ComfyUI would give its version."""
    system = {
        "os": platform.system(),
        "python_version": sys.version,
        "embedded_python": False,
        "comfyui_version": f"unclip edit {_version('unclip')}",
        "pytorch_version": _version("torch"),
        "installed_templates_version": None,
        "required_frontend_version": None,
        "ram_total": 0,
        "ram_free": 0,
        "argv": ["unclip", "edit"],
    }
    return json_response({"system": system, "devices": []})


async def features(editor: Editor, request: web.Request) -> web.Response:
    return json_response(feature_flags(editor.max_upload))


async def model_kinds(editor: Editor, request: web.Request) -> web.Response:
    return json_response(["unclip"])


async def models(editor: Editor, request: web.Request) -> web.Response:
    if request.match_info["kind"] != "unclip":
        raise web.HTTPNotFound(text="this editor has unclip models alone")
    folders = editor.host.model_folders()
    return json_response(list(await editor.in_thread(catalog.list_stacks, folders)))


async def nothing(editor: Editor, request: web.Request) -> web.Response:
    return json_response([])


async def no_entries(editor: Editor, request: web.Request) -> web.Response:
    return json_response({})


async def no_style(editor: Editor, request: web.Request) -> web.Response:
    return web.Response(content_type="text/css")


async def get_web_file(editor: Editor, request: web.Request) -> web.StreamResponse:
    return _file(_WEB, request.match_info["file"], _SERVED)


async def get_own_file(editor: Editor, request: web.Request) -> web.StreamResponse:
    return _file(_OWN, request.match_info["file"], _SERVED)


def feature_flags(max_upload: int) -> dict[str, Any]:
    """What the server can, as the page asks for it."""
    return {"supports_preview_metadata": True, "max_upload_size": max_upload, "show_signin_button": False}


def _file(folder: Path, name: str, endings: set[str]) -> web.FileResponse:
    path = path_of(folder, name)
    if path.suffix not in endings or not path.is_file():
        raise web.HTTPNotFound(text=f"there is no file {name!r}")
    kind = {"Content-Type": "text/markdown; charset=utf-8"} if path.suffix == ".md" else {}
    return web.FileResponse(path, headers={"Cache-Control": "no-cache", **kind})


def _words(folder: Path) -> dict[str, Any]:
    parts = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}
    return {**parts.pop("main", {}), **parts}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
