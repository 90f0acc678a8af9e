"""What the addresses share: the folders, the node classes, the queue and the open pages; and small helpers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from ...nodes.files import UnusableName, path_inside
from ...nodes.host import LocalHost, use_host
from ...unclip_core.disk import size_text
from .json_text import from_json, to_json
from .pages import Pages
from .worker import Worker

Result = TypeVar("Result")
_PICTURES = 2  # that are decoded at a time: each may take some hundred megabytes
MAX_JSON = 8 << 20  # bytes: ten times the prompt of a graph of 5,000 nodes
_BODY_SECONDS = 300.0


@dataclass(frozen=True)
class Editor:
    """One running editor."""

    classes: dict[str, type]
    host: LocalHost
    worker: Worker
    pages: Pages
    user: Path  # saved workflows and settings
    page: Path  # the frontend's files
    max_upload: int  # bytes
    pictures: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_PICTURES, "pictures"))
    settings_lock: threading.Lock = field(default_factory=threading.Lock)  # while the page's settings are changed

    async def in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Call `work` with our host beside the server's loop: node classes and pictures read from disk."""

        def call() -> Result:
            with use_host(self.host):
                return work(*arguments)

        return await asyncio.to_thread(call)

    async def with_picture(self, request: web.Request, work: Callable[..., Result], *arguments: Any) -> Result:
        """Call `work`, which decodes a picture, beside the server's loop and beside everything else: a page may ask for
        hundreds at once. What waits is dropped when its client has gone.
        """

        def call() -> Result:
            if request.transport is None or request.transport.is_closing():
                raise web.HTTPServiceUnavailable(text="nobody waits for this picture any more")
            with use_host(self.host):
                return work(*arguments)

        return await asyncio.get_running_loop().run_in_executor(self.pictures, call)


def json_response(data: Any, status: int = 200) -> web.Response:
    """`data` as JSON."""
    return web.Response(text=to_json(data), status=status, content_type="application/json")


def bad_request(reason: str) -> web.HTTPBadRequest:
    """The error to raise for something wrong in a request."""
    return web.HTTPBadRequest(text=reason)


async def read_body(request: web.Request, most: int = MAX_JSON) -> bytes:
    """The request's body. Raises HTTPException for one that is too large, too slow, or cannot be unpacked."""
    size = request.content_length or 0
    if size <= most:
        data = await _received(request.read())
        size = len(data)
    if size > most:
        text = f"the body has {size_text(size)}, and at most {size_text(most)} are taken here; send less"
        raise web.HTTPRequestEntityTooLarge(most, size, text=text)
    return data


async def read_fields(request: web.Request) -> Any:
    """The fields of a form. Raises HTTPException for what is none."""
    return await _received(request.post())


async def _received(reading: Awaitable[Result]) -> Result:
    """What the client sends. Whatever is wrong with it is the client's doing: encodings that do not exist or do not
    fit, parts without an end."""
    try:
        return await asyncio.wait_for(reading, _BODY_SECONDS)
    except asyncio.TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the body did not arrive within {_BODY_SECONDS:.0f} seconds") from None
    except (web.HTTPException, ConnectionError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise bad_request(f"the body cannot be read: {reason}") from None


async def read_json(request: web.Request) -> Any:
    """The request's JSON. Raises HTTPException for what is none, or more than MAX_JSON."""
    data = await read_body(request)
    try:
        return from_json(data)
    except ValueError as error:
        raise bad_request(f"the body is not JSON that can be used: {error}") from None


async def read_json_object(request: web.Request) -> dict[str, Any]:
    """The request's JSON object; empty without a body."""
    if not request.can_read_body:
        return {}
    data = await read_json(request)
    if not isinstance(data, dict):
        raise bad_request("the body is not a JSON object")
    return data


def read_count(request: web.Request, name: str, default: int) -> int:
    """A whole number >= 0 of the query."""
    text = request.query.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise bad_request(f"{name} is {text!r}; give a whole number")
    return int(text)


def read_ids(data: dict[str, Any], name: str) -> list[str]:
    """A list of ids in a JSON object; empty when it is not there."""
    ids = data.get(name, [])
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise bad_request(f"{name} is not a list of ids")
    return ids


def path_of(folder: Path, name: str) -> Path:
    """The path of `name` in a folder. Raises HTTPException for what cannot be a name, or leads out of the folder."""
    try:
        return path_inside(folder, name, links=False)
    except UnusableName as error:
        raise bad_request(str(error)) from None
    except (ValueError, OSError):
        raise web.HTTPForbidden(text="this path leads out of its folder") from None
