"""Pictures to and from the page: /view, /upload/image, /upload/mask, /internal/files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.web_request import FileField

from ...nodes.files import FOLDERS, PICTURE_TYPES, split_annotation, write_whole
from ...unclip_core.pictures.opening import MAX_PIXELS, BadPicture, TooLarge, opened
from .editor import Editor
from .requests import bad_request, json_response, path_of, read_fields

_PREVIEW_SIDE = 2048  # pixels
_MAX_NAME = 150
_MAX_SAME = 1000  # files that differ by the number in their name alone


def routes() -> Iterator[tuple[str, str, Any]]:
    """(method, path, handler) of every address."""
    yield "GET", "/view", view
    yield "POST", "/upload/image", upload_image
    yield "POST", "/upload/mask", upload_mask
    yield "GET", "/internal/files/{kind}", list_files


async def view(editor: Editor, request: web.Request) -> web.StreamResponse:
    """A file of the input, output or temp folder; pictures as they are, or one channel, or as a small preview."""
    path = _path(editor, request.query)
    if not path.is_file():
        raise web.HTTPNotFound(text=f"there is no file {path.name!r}")
    kind = PICTURE_TYPES.get(path.suffix.lower())
    channel, preview = request.query.get("channel", "rgba"), request.query.get("preview", "")
    if kind and (channel in ("rgb", "a") or preview):
        try:
            data, kind = await editor.with_picture(request, _converted, path, channel, preview)
        except (OSError, ValueError) as error:
            raise bad_request(str(error)) from None
        return web.Response(body=data, content_type=kind)
    # Whatever is not a picture is for saving, never for the browser to run.
    headers = {"Content-Type": kind or "application/octet-stream", "Cache-Control": "no-cache"}
    if kind is None:
        headers["Content-Disposition"] = "attachment"
    return web.FileResponse(path, headers=headers)


async def upload_image(editor: Editor, request: web.Request) -> web.Response:
    """Keep a picture. The same one again gets its old name, another of that name a new one."""
    fields = await read_fields(request)
    name, data = _file(fields)
    await editor.with_picture(request, _check, name, data)
    return await _keep(editor, fields, name, data)


async def upload_mask(editor: Editor, request: web.Request) -> web.Response:
    """Keep a copy of the picture that `original_ref` names, with the alpha that was painted on it."""
    fields = await read_fields(request)
    name, data = _file(fields)
    await editor.with_picture(request, _check, name, data)
    try:
        reference = json.loads(str(fields.get("original_ref", "")))
        original = _path(editor, {key: str(value) for key, value in reference.items()})
    except (ValueError, AttributeError, RecursionError):
        raise bad_request("original_ref does not name the picture that the mask is for") from None
    if not original.is_file():
        raise web.HTTPNotFound(text=f"there is no file {original.name!r}")
    try:
        masked = await editor.with_picture(request, _with_alpha, original, data)
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them
        raise bad_request(f"{original.name} cannot be read as a picture: {error}") from None
    return await _keep(editor, fields, str(Path(name).with_suffix(".png")), masked)


async def list_files(editor: Editor, request: web.Request) -> web.Response:
    """Names of the pictures in a folder, the newest first."""
    kind = request.match_info["kind"]
    if kind not in FOLDERS:
        raise bad_request(f"{kind!r} is not one of {', '.join(FOLDERS)}")
    folder = editor.host.folder(kind)
    entries = [entry for entry in os.scandir(folder) if entry.is_file()] if folder.is_dir() else []
    pictures = [entry for entry in entries if Path(entry.name).suffix.lower() in PICTURE_TYPES]
    return json_response([entry.name for entry in sorted(pictures, key=lambda entry: -entry.stat().st_mtime)])


def _path(editor: Editor, query: Any) -> Path:
    """The file that filename, subfolder and type mean."""
    name, annotated = split_annotation(query.get("filename", ""))
    kind = annotated or query.get("type", "output")
    if not name or kind not in FOLDERS or "\0" in name:
        raise bad_request("give filename, and type input, output or temp")
    return _inside(editor, kind, query.get("subfolder", ""), name)


def _inside(editor: Editor, kind: str, subfolder: str, name: str) -> Path:
    return path_of(editor.host.folder(kind), f"{subfolder}/{name}" if subfolder else name)


def _file(fields: Any) -> tuple[str, bytes]:
    """Name and content of the uploaded file."""
    sent = fields.get("image")
    if not isinstance(sent, FileField):
        raise bad_request("no file was sent as image")
    name = Path(sent.filename.replace("\\", "/")).name.strip()
    stem, ending = Path(name).stem, Path(name).suffix.lower()
    if ending not in PICTURE_TYPES:
        raise web.HTTPUnsupportedMediaType(text=f"{name!r} is not a picture; send one of {', '.join(PICTURE_TYPES)}")
    if not stem or stem.startswith(".") or not name.isprintable() or len(name.encode()) > _MAX_NAME:
        raise bad_request(f"{name!r} cannot be a file's name here; rename it")
    return name, sent.file.read()


def _check(name: str, data: bytes) -> None:
    """Refuse what is not a whole picture that can be shown, whatever its name says."""
    try:
        with opened(BytesIO(data), repr(name)) as picture:
            picture.verify()
    except TooLarge as error:
        raise web.HTTPRequestEntityTooLarge(MAX_PIXELS, error.pixels, text=str(error)) from None
    except BadPicture:
        raise web.HTTPUnsupportedMediaType(text=f"{name!r} is not a picture that can be read") from None


async def _keep(editor: Editor, fields: Any, name: str, data: bytes) -> web.Response:
    kind, subfolder = str(fields.get("type", "input")), str(fields.get("subfolder", ""))
    if kind not in ("input", "temp"):
        raise bad_request(f"type is {kind!r}; pictures can be sent to input or temp")
    path = _inside(editor, kind, subfolder, name)
    overwrite = str(fields.get("overwrite", "")).lower() in ("true", "1")
    try:
        path = await editor.in_thread(_write, path, data, overwrite)
    except OSError as error:
        raise bad_request(f"{name!r} cannot be saved: {error.strerror or error}") from None
    folder = path.parent.relative_to(editor.host.folder(kind).resolve()).as_posix()
    return json_response({"name": path.name, "subfolder": "" if folder == "." else folder, "type": kind})


def _write(path: Path, data: bytes, overwrite: bool) -> Path:
    """Write a whole file, under a free name unless it may be overwritten; return where it lies. Raises OSError."""
    for number in range(_MAX_SAME):
        candidate = path.with_name(f"{path.stem} ({number}){path.suffix}") if number else path
        try:
            write_whole(candidate, data, overwrite)
        except FileExistsError:
            if not (candidate.is_file() and candidate.read_bytes() == data):
                continue
        return candidate
    raise OSError(f"there are {_MAX_SAME} files of this name; rename it")


def _converted(path: Path, channel: str, preview: str) -> tuple[bytes, str]:
    """A channel of a picture as PNG, or the picture as `webp;90` or `jpeg;80`."""
    from PIL import Image

    form, _, quality = preview.partition(";")
    form = form if form in ("webp", "jpeg") else "webp" if preview else "png"
    with opened(path, path.name) as picture:
        if preview and channel == "rgba":  # a preview is for looking at; masks are painted on the other ones
            picture.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
        if channel == "rgb" or form == "jpeg":
            picture = picture.convert("RGB")
        elif channel == "a":
            alpha = picture.convert("RGBA").getchannel("A")
            picture = Image.new("RGBA", picture.size)
            picture.putalpha(alpha)
        file = BytesIO()
        options = {} if form == "png" else {"quality": min(int(quality[:3]), 100) if quality.isdecimal() else 90}
        picture.save(file, format=form, **options)
    return file.getvalue(), f"image/{form}"


def _with_alpha(original: Path, mask: bytes) -> bytes:
    """The original as PNG with the mask's alpha, its graph kept."""
    from PIL.PngImagePlugin import PngInfo

    with opened(original, original.name) as picture, opened(BytesIO(mask), "the mask") as painted:
        alpha = painted.convert("RGBA").getchannel("A")
        masked = picture.convert("RGBA")
        if alpha.size != masked.size:
            alpha = alpha.resize(masked.size)
        masked.putalpha(alpha)
        info = PngInfo()
        for key, value in getattr(picture, "text", {}).items():
            info.add_text(key, value)
    file = BytesIO()
    masked.save(file, format="PNG", pnginfo=info, compress_level=4)
    return file.getvalue()
