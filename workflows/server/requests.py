"""What is read of a request, within limits, and the shape of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from ...nodes.files import UnusableName, path_inside
from ...unclip_core.disk import size_text
from .json_text import from_json, to_json

Result = TypeVar("Result")
MAX_JSON = 8 << 20  # bytes: ten times the prompt of a graph of 5,000 nodes
_BODY_SECONDS = 300.0


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
        return await asyncio.to_thread(from_json, data)  # a second's work for what is large
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
