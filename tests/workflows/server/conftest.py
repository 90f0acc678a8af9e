"""An editor over toy nodes, asked without a browser: scenarios are coroutines that get a client."""

import asyncio
import io
import json
import threading

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from comfyui_unclip.nodes.builtin import BUILTIN_CLASS_MAPPINGS
from comfyui_unclip.nodes.host import current_host
from comfyui_unclip.workflows.server.app import MAX_UPLOAD, editor_host, make_app
from comfyui_unclip.workflows.server.editor import Editor
from comfyui_unclip.workflows.server.guard import Guard
from comfyui_unclip.workflows.server.pages import Pages
from comfyui_unclip.workflows.server.worker import Worker

ENDED = ("execution_success", "execution_error", "execution_interrupted")


class Samples:
    """A sampler of `steps` steps over grey pictures. With `hold` it waits at the second step until it is let go."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "go"
    held = threading.Event()  # it has reached the second step
    gate = threading.Event()

    @classmethod
    def INPUT_TYPES(cls):
        steps = ("INT", {"default": 4, "min": 1, "max": 1000})
        return {"required": {"steps": steps, "seed": ("INT", {"default": 0}), "hold": ("BOOLEAN", {"default": False})}}

    def go(self, steps, seed, hold):
        import torch

        from comfyui_unclip.unclip_core.diffusion.samplers import StepState

        def sample():
            x0 = torch.full((1, 3, 8, 8), seed / 1000)
            for index in range(steps):
                if hold and index == 1:
                    type(self).held.set()
                    assert type(self).gate.wait(20)
                yield StepState(index, steps, 0, x0, x0)
            return x0

        return (((current_host().drive(sample(), "Samples") + 1) / 2).movedim(1, -1),)


class Warns:
    """Tells the host something, or takes it back."""

    OUTPUT_NODE = True
    RETURN_TYPES = ()
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {})}}

    def go(self, text):
        current_host().warn(*([text] if text else []))
        return {"ui": {"text": [text], "number": [float("nan")]}}


@pytest.fixture
def toy_classes(classes):
    """The toy pack of tests/workflows, the editor's own nodes, and a sampler."""
    Samples.held, Samples.gate = threading.Event(), threading.Event()
    return {**BUILTIN_CLASS_MAPPINGS, **classes, "Samples": Samples, "Warns": Warns}


@pytest.fixture
def ask(tmp_path, toy_classes):
    """ask(scenario, listen=, token=): start an editor in tmp_path and run `await scenario(client)`."""

    def run(scenario, listen="127.0.0.1", token=None, user=None):
        page = tmp_path / "page"
        (page / "assets").mkdir(parents=True, exist_ok=True)
        (page / "index.html").write_text("<title>the page</title>")
        (page / "assets" / "a.js").write_text("1")
        (tmp_path / "secret.txt").write_text("nobody's business")
        host = editor_host(tmp_path / "out", tmp_path / "input")
        pages = Pages({"supports_preview_metadata": True})
        worker = Worker(toy_classes, host, pages)
        folder = tmp_path / "user"
        (folder / "workflows").mkdir(parents=True, exist_ok=True)
        editor = Editor(toy_classes, host, worker, pages, folder, page, MAX_UPLOAD)

        async def within():
            async with TestClient(TestServer(make_app(editor, Guard(listen, token)))) as client:
                return await asyncio.wait_for(scenario(client), 90)

        return asyncio.run(within())

    return run


class Page:
    """One page: its websocket and what came over it."""

    def __init__(self, client, socket, name):
        self.client, self.socket, self.name, self.heard = client, socket, name, []

    async def hear(self, *kinds, **data):
        """Listen until a message of one of these kinds, with this data, and return its data."""
        while True:
            message = await self.socket.receive(timeout=20)
            if message.type == aiohttp.WSMsgType.BINARY:
                self.heard.append(("binary", message.data))
            else:
                assert message.type == aiohttp.WSMsgType.TEXT, message
                text = json.loads(message.data)
                self.heard.append((text["type"], text["data"]))
            kind, found = self.heard[-1]
            if kind in kinds and all(found.get(key) == value for key, value in data.items()):
                return found

    async def queue(self, prompt, **more):
        """Queue a prompt and return the answer."""
        body = {"prompt": prompt, "client_id": self.name, **more}
        async with self.client.post("/api/prompt", json=body) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def run(self, prompt, **more):
        """Queue a prompt, listen to its end, and return (how it ended, its data, the kinds heard since)."""
        start = len(self.heard)
        job = await self.queue(prompt, **more)
        await self.hear("executing", node=None, prompt_id=job["prompt_id"])
        end = next(entry for entry in reversed(self.heard) if entry[0] in ENDED)
        return *end, [kind for kind, _ in self.heard[start:]]


@pytest.fixture
def open_page():
    """open_page(client, name) -> a Page that was greeted."""

    async def open(client, name="tab"):
        page = Page(client, await client.ws_connect(f"/ws?clientId={name}"), name)
        await page.hear("status", sid=name)
        return page

    return open


@pytest.fixture
def picture():
    """picture(size, format) -> the bytes of a picture."""

    def make(size=(8, 6), form="PNG", color=(200, 30, 40)):
        file = io.BytesIO()
        Image.new("RGB", size, color).save(file, form)
        return file.getvalue()

    return make


@pytest.fixture
def samples():
    """The toy sampler's class, whose events hold and let go."""
    return Samples
