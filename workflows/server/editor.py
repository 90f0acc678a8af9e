"""What the addresses share: the folders, the node classes, the queue and the open pages; and small helpers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from ...nodes.host import LocalHost, use_host
from .json_text import to_json
from .pages import Pages
from .worker import Worker

Result = TypeVar("Result")
_PICTURES = 2  # that are decoded at a time: each may take some hundred megabytes


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


async def read_json_object(request: web.Request) -> dict[str, Any]:
    """The request's JSON object; empty without a body."""
    if not request.can_read_body:
        return {}
    try:
        data = await request.json()
    except (ValueError, RecursionError):
        raise bad_request("the body is not JSON") from None
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


def bind(handler: Callable[..., Any], editor: Editor) -> Callable[[web.Request], Any]:
    """A handler of `(editor, request)` as aiohttp calls one, with the request alone."""
    return partial(handler, editor)
