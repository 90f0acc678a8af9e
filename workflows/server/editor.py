"""What the addresses share: the folders, the node classes, the queue and the open pages."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from ...nodes.host import LocalHost, use_host
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
