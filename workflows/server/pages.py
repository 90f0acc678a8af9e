"""The open pages: a websocket each, told apart by the client id that a page keeps over a reload."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import uuid
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType, web

from .json_text import to_json

_HEARTBEAT = 20.0  # seconds after which a page is asked whether it is there; with half as many to answer in
# For a page that is behind: messages beyond which previews and progress are left out; messages, and bytes, beyond which
# it is dropped. A graph of 5,000 quick nodes says some 15,000 things in a second.
_LATE, _MAX_WAITING, _MAX_BYTES = 512, 50_000, 32 << 20
_BURST = 16  # messages to one page before others have their turn
_MAX_OF_CLIENT = 8  # websockets of one client id: the tabs that were duplicated; the oldest goes
_MAX_PAGES = 2000  # websockets
_MAX_MESSAGE = 1 << 16  # bytes that a page may send at once
MAX_CLIENT_ID = 128


class Pages:
    """Sends messages to pages, from any thread, and never waits for one."""

    def __init__(self, features: dict[str, Any]):
        self._features = features
        self._open: dict[str, dict[_Page, None]] = {}  # by client, the oldest first
        self._count = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def __contains__(self, client: object) -> bool:
        return client in self._open

    def send(self, client: str | None, kind: str, data: dict[str, Any], droppable: bool = False) -> None:
        """A message to the pages of a client, None: to all."""
        self.send_raw(client, to_json({"type": kind, "data": data}), droppable)

    def send_raw(self, client: str | None, message: str | bytes, droppable: bool = False) -> None:
        """The same for an encoded message. Without a page of the client nothing is sent, and the run goes on."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the server is gone
                self._loop.call_soon_threadsafe(self._deliver, client, message, droppable)

    async def serve(self, request: web.Request, greet: Callable[[str], None]) -> web.WebSocketResponse:
        """Hold one page's websocket until it closes. `greet(client)` sends the first messages."""
        self._loop = asyncio.get_running_loop()
        if self._count >= _MAX_PAGES:
            raise web.HTTPServiceUnavailable(text=f"{_MAX_PAGES} pages are open; close some")
        socket = web.WebSocketResponse(heartbeat=_HEARTBEAT, max_msg_size=_MAX_MESSAGE)
        await socket.prepare(request)
        client = request.query.get("clientId", "")[:MAX_CLIENT_ID] or uuid.uuid4().hex
        page = _Page(socket, request.transport)
        own = self._open.setdefault(client, {})
        if len(own) >= _MAX_OF_CLIENT:
            next(iter(own)).drop()
            del own[next(iter(own))]
        own[page] = None
        self._count += 1
        writer = asyncio.create_task(page.write())
        try:
            greet(client)
            async for message in socket:
                if message.type == WSMsgType.TEXT and _asks_features(message.data):
                    page.push(to_json({"type": "feature_flags", "data": self._features}), False)
        finally:
            self._count -= 1
            own.pop(page, None)
            if not own and self._open.get(client) is own:
                del self._open[client]
            writer.cancel()
            page.drop()  # what still waits to be sent to a page that does not read would wait for ever
        return socket

    async def close(self) -> None:
        """Say goodbye to every page."""
        for page in [page for pages in self._open.values() for page in pages]:
            with contextlib.suppress(Exception):
                await page.socket.close(code=1001, message=b"the server stops")

    def _deliver(self, client: str | None, message: str | bytes, droppable: bool) -> None:
        groups = list(self._open.values()) if client is None else [self._open.get(client, {})]
        for page in [page for group in groups for page in group]:
            page.push(message, droppable)


class _Page:
    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None):
        self.socket = socket
        self._transport = transport
        self._waiting: asyncio.Queue[str | bytes] = asyncio.Queue()
        self._bytes = 0

    def push(self, message: str | bytes, droppable: bool) -> None:
        """Queue a message. A page that does not read has to come back, which it does by itself, and asks for what it
        missed."""
        behind = self._waiting.qsize()
        if droppable and behind >= _LATE:
            return
        if behind >= _MAX_WAITING or self._bytes > _MAX_BYTES:
            self.drop()
            return
        self._bytes += len(message)
        self._waiting.put_nowait(message)

    def drop(self) -> None:
        """Cut the connection, without waiting for the page to agree."""
        if self._transport is not None:
            self._transport.abort()

    async def write(self) -> None:
        """Send what is queued, for as long as the page is open."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            for count in itertools.count(1):
                message = await self._waiting.get()
                self._bytes -= len(message)
                send = self.socket.send_str if isinstance(message, str) else self.socket.send_bytes
                await send(message)
                if count % _BURST == 0:  # neither a long queue nor a quick socket ever waits
                    await asyncio.sleep(0)


def _asks_features(text: str) -> bool:
    """Whether this is the page's own list of features, which is answered with the server's."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict) and message.get("type") == "feature_flags"
