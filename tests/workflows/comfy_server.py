"""A small server that speaks ComfyUI's protocol as far as a client sees it, and paints plain pictures.

Routes and messages as a real 0.3.64 sends them: /object_info, /prompt, /ws, /history, /view, /queue, /interrupt,
/upload/image.
"""

import asyncio
import io
import threading
import uuid

from aiohttp import web
from PIL import Image

OBJECT_INFO = {
    "LoadImage": {
        "input": {"required": {"image": [["there.png"], {"image_upload": True}]}},
        "output": ["IMAGE", "MASK"],
        "output_name": ["IMAGE", "MASK"],
        "output_node": False,
        "display_name": "Load Image",
    },
    "LoadChannel": {
        "input": {
            "required": {
                "image": ["COMBO", {"options": ["there.png"], "image_upload": True}],
                "channel": ["COMBO", {"options": ["alpha", "red"]}],
            }
        },
        "output": ["IMAGE"],
        "output_name": ["IMAGE"],
        "output_node": False,
        "display_name": "Load Channel",
    },
    "Paint": {
        "input": {"required": {"seed": ["INT", {"default": 0, "min": 0, "max": 255}], "text": ["STRING", {}]}},
        "output": ["IMAGE"],
        "output_name": ["IMAGE"],
        "output_node": False,
        "display_name": "Paint",
    },
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "x"}]}},
        "output": [],
        "output_name": [],
        "output_node": True,
        "display_name": "Save Image",
    },
}


class ComfyServer:
    """Started in a thread of its own. `prompts`, `uploads`, `interrupted`: what it was sent."""

    def __init__(self):
        self.prompts, self.uploads, self.interrupted = [], [], []
        self.drop_socket_once = False
        self.hang = False  # never finish a prompt
        self.pause = 0.0  # seconds of silence before a prompt's nodes run
        self.lose = False  # take a prompt out of the queue before it runs
        # What is answered instead, by the path's beginning: JSON text, bytes, or a coroutine function of the request.
        self.lies = {}
        self._sockets, self._history, self._files, self._running = {}, {}, {}, set()
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    def stop(self):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self):
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())

    async def _start(self):
        @web.middleware
        async def lie(request, handler):
            for beginning, body in self.lies.items():
                if request.path.startswith(beginning) and callable(body):
                    return await body(request)
                if request.path.startswith(beginning):
                    data = body if isinstance(body, bytes) else body.encode()
                    return web.Response(body=data, content_type="application/json")
            return await handler(request)

        app = web.Application(middlewares=[lie])
        app.add_routes(
            [
                web.get("/object_info", self._object_info),
                web.get("/ws", self._socket),
                web.post("/prompt", self._prompt),
                web.get("/history/{id}", self._one_history),
                web.get("/view", self._view),
                web.get("/queue", self._queue),
                web.post("/queue", self._note),
                web.post("/interrupt", self._note),
                web.post("/upload/image", self._upload),
            ]
        )
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"

    async def _object_info(self, request):
        return web.json_response(OBJECT_INFO)

    async def _socket(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets[request.query["clientId"]] = socket
        await socket.send_json({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}}})
        async for _ in socket:
            pass
        return socket

    async def _prompt(self, request):
        body = await request.json()
        self.prompts.append(body)
        for node_id, node in body["prompt"].items():
            if node["inputs"].get("text") == "refuse":
                error = {"message": "Custom validation failed for node", "details": "text - not that one"}
                entry = {"errors": [error], "class_type": node["class_type"]}
                return web.json_response({"error": {"message": "no"}, "node_errors": {node_id: entry}}, status=400)
        prompt_id = str(uuid.uuid4())
        if self.lose:
            return web.json_response({"prompt_id": prompt_id, "number": len(self.prompts), "node_errors": {}})
        self._running.add(prompt_id)
        self._work = asyncio.create_task(self._run(prompt_id, body))
        return web.json_response({"prompt_id": prompt_id, "number": len(self.prompts), "node_errors": {}})

    async def _run(self, prompt_id, body):
        async def send(kind, **data):
            socket = self._sockets.get(body["client_id"])
            if socket is not None and not socket.closed:
                await socket.send_json({"type": kind, "data": {"prompt_id": prompt_id, **data}})

        await send("execution_start")
        await send("execution_cached", nodes=[])
        outputs, messages = {}, []
        if self.hang:
            return
        await asyncio.sleep(self.pause)
        for node_id, node in body["prompt"].items():
            await send("executing", node=node_id)
            if node["inputs"].get("text") == "fail":
                error = {"node_id": node_id, "node_type": node["class_type"], "exception_message": "no\npaint"}
                messages.append(["execution_error", error])
                await send("execution_error", **error)
                break
            await send("progress", value=1, max=2, node=node_id)
            if self.drop_socket_once:
                self.drop_socket_once = False
                await self._sockets[body["client_id"]].close()
            if node["class_type"] == "SaveImage":
                seed = next(n["inputs"]["seed"] for n in body["prompt"].values() if "seed" in n["inputs"])
                name = f"{node['inputs']['filename_prefix']}_{len(self._files) + 1:05}_.png"
                self._files[name] = _picture(seed)
                outputs[node_id] = {"images": [{"filename": name, "subfolder": "", "type": "output"}]}
                await send("executed", node=node_id, display_node=node_id, output=outputs[node_id])
        status = {"status_str": "error" if messages else "success", "completed": not messages, "messages": messages}
        self._history[prompt_id] = {"prompt": [], "outputs": outputs, "status": status}
        self._running.discard(prompt_id)
        await send("executing", node=None)

    async def _queue(self, request):
        running = [[number, prompt_id, {}, {}, []] for number, prompt_id in enumerate(self._running)]
        return web.json_response({"queue_running": running, "queue_pending": []})

    async def _one_history(self, request):
        prompt_id = request.match_info["id"]
        return web.json_response({prompt_id: self._history[prompt_id]} if prompt_id in self._history else {})

    async def _view(self, request):
        return web.Response(body=self._files[request.query["filename"]], content_type="image/png")

    async def _note(self, request):
        self.interrupted.append((request.path, await request.json()))
        return web.Response()

    async def _upload(self, request):
        form = await request.post()
        self.uploads.append((form["image"].filename, form["image"].file.read()))
        return web.json_response({"name": f"sent_{form['image'].filename}", "subfolder": "", "type": "input"})


def _picture(seed):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (seed, 0, 0)).save(file, "PNG")
    return file.getvalue()
