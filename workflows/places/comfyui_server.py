"""Rows run on a ComfyUI server: the same graph is queued there, followed over its websocket, and the results fetched.

The node classes are the server's own, read from its /object_info, so that graphs of any installed pack run and are
checked before anything is queued.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ...nodes.files import path_inside
from ..document.graph import Problem, Prompt, WorkflowError
from ..engine.outcome import Event
from ..rows.prepared import Prepared
from ..rows.reporters import Reporter
from ..rows.results import RowResult
from .node_clock import NodeClock
from .options import Options
from .received_files import row_tag, save_file

_MAX_AWAY = 60.0  # seconds without a connection to the server in the middle of a row, or without its answer
_MAX_JSON, _MAX_FILE = 64 << 20, 512 << 20  # bytes of an answer, unpacked: it is held in memory
_CONNECT, _SILENCE = 30.0, 300.0  # seconds for a connection, and between two blocks of an answer
_LONG = 3600.0  # seconds for an answer that may take its time: some come a byte at a time
_LEAVE = 10.0  # seconds for what is asked after Ctrl-C
_MAX_MESSAGE = 64 << 20  # bytes of the websocket's: previews are the largest
# What comes of reading an answer that is JSON and yet not ComfyUI's.
_NOT_COMFYUI = (LookupError, TypeError, AttributeError, RecursionError)
_POLL = 5.0  # seconds of silence after which the history is asked as well


class ServerError(RuntimeError):
    """The server failed at a row, or went away."""


def server_classes(url: str, input_folder: Path) -> dict[str, type]:
    """A class for each node of the server, with its declarations only. Raises WorkflowError when none answers."""
    try:
        declared = asyncio.run(_declarations(url))
        return {str(name): _declared_class(str(name), entry, input_folder) for name, entry in declared.items()}
    except (ServerError, OSError, ValueError, asyncio.TimeoutError, *_NOT_COMFYUI, _aiohttp().ClientError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        message = f"--server {url}: no ComfyUI answers there ({reason}); start it, or check the address"
        raise WorkflowError([Problem("invalid_option", message)]) from None


def _aiohttp():
    try:
        import aiohttp
    except ImportError:
        message = "--server needs the package aiohttp; install it with: pip install 'unclip[server]'"
        raise WorkflowError([Problem("invalid_option", message)]) from None
    return aiohttp


async def _declarations(url: str) -> Any:
    async with _new_session() as http:
        return await _get_json(http, f"{url.rstrip('/')}/object_info")


def _new_session() -> Any:
    """What asks the server, and nobody else: a stranger's would send us on to machines that it cannot reach itself.
    Where one sends us on, a websocket's beginning too, ServerError is raised."""

    async def refuse(session: Any, context: Any, sent_on: Any) -> None:
        place = ascii(sent_on.response.headers.get("Location", ""))[:200]
        sent_on.response.close()
        raise ServerError(f"the server sends us on from {sent_on.url.path} to {place}; is that its address?")

    aiohttp = _aiohttp()
    traced = aiohttp.TraceConfig()
    traced.on_request_redirect.append(refuse)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT)
    return aiohttp.ClientSession(timeout=timeout, trace_configs=[traced])


async def _get_json(http: Any, url: str) -> Any:
    async with _asked(http, "GET", url, _MAX_AWAY) as answer:
        answer.raise_for_status()
        return json.loads(await _read(answer, _MAX_JSON))


@contextlib.asynccontextmanager
async def _asked(http: Any, method: str, url: str, seconds: float, **more: Any) -> AsyncIterator[Any]:
    """The server's answer, which is read within `seconds`. Raises asyncio.TimeoutError for one that does not come or
    end."""
    timeout = _aiohttp().ClientTimeout(total=seconds, sock_connect=_CONNECT, sock_read=_SILENCE)
    try:
        async with http.request(method, url, timeout=timeout, **more) as answer:
            yield answer
    except asyncio.TimeoutError:
        raise _no_answer(url) from None


def _no_answer(url: str) -> asyncio.TimeoutError:
    return asyncio.TimeoutError(f"its answer to {urlsplit(url).path} does not come, or has no end")


async def _read(answer: Any, most: int) -> bytearray:
    """The body of a server's answer, unpacked. Raises ServerError for more than `most` bytes."""
    found = bytearray()
    async for block in answer.content.iter_chunked(1 << 20):
        found += block
        if len(found) > most:
            raise ServerError(f"the server sends more than {most >> 20} MB for {answer.url.path}")
    return found


def _declared_class(name: str, entry: dict[str, Any], input_folder: Path) -> type:
    inputs = {kind: dict(entry["input"].get(kind) or {}) for kind in ("required", "optional", "hidden")}
    for kind in ("required", "optional"):
        for field, spec in inputs[kind].items():
            # A picture that lies here is uploaded, so it is as good as one that lies there.
            options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
            # Older nodes give the list itself as the type, newer ones the word COMBO and the list among the options.
            choices = options.get("options") if spec[0] == "COMBO" else spec[0]
            if options.get("image_upload") and isinstance(choices, list) and input_folder.is_dir():
                names = [*dict.fromkeys([*choices, *(path.name for path in input_folder.iterdir() if path.is_file())])]
                listed = spec[0] == "COMBO"
                inputs[kind][field] = ["COMBO", {**options, "options": names}] if listed else [names, options]
    members = {
        "INPUT_TYPES": classmethod(lambda cls: inputs),
        "RETURN_TYPES": tuple(entry.get("output") or ()),
        "RETURN_NAMES": tuple(entry.get("output_name") or ()),
        "OUTPUT_NODE": bool(entry.get("output_node")),
        "TITLE": str(entry.get("display_name") or name),
    }
    return type(name, (), members)


class ServerRunner:
    """Runs rows one after another on the server at `options.server`."""

    def __init__(self, prepared: Prepared, options: Options, reporter: Reporter):
        _aiohttp()
        self._prepared = prepared
        self._url = options.server.rstrip("/")
        self._output, self._input = options.output, options.input
        self._reporter = reporter
        self._client = uuid.uuid4().hex
        self._loop = asyncio.new_event_loop()
        self._http: Any = None
        self._socket: Any = None
        self._current: str | None = None  # the prompt id that the server works on for us
        self._uploaded: dict[tuple[str, int], str] = {}
        self._clock = NodeClock(prepared.prompt)
        self.failure: Exception | None = None

    def run(self, numbers: Iterable[int]) -> Iterator[RowResult]:
        """Run the rows in the order given. An interrupt takes the row back from the server and is raised."""
        for number in numbers:
            row = self._prepared.jobs.row(number)
            result = RowResult(number, self._prepared.row_inputs(row))
            self.failure = None
            self._clock = NodeClock(self._prepared.prompt)
            start = time.perf_counter()
            task = self._loop.create_task(self._run_row(result))
            try:
                self._loop.run_until_complete(task)
            except KeyboardInterrupt:
                task.cancel()
                self._loop.run_until_complete(asyncio.gather(task, self._cancel(), return_exceptions=True))
                raise
            except (ServerError, OSError, ValueError, asyncio.TimeoutError, _aiohttp().ClientError) as error:
                result.error = " ".join(str(error).split()) or type(error).__name__
                self.failure = error
            except _NOT_COMFYUI as error:
                result.error = (
                    f"the server {self._url} does not answer as ComfyUI does ({type(error).__name__}: {error})"
                )
                self.failure = ServerError(result.error)
            result.seconds = round(time.perf_counter() - start, 3)
            self._report(result, "done", None, seconds=result.seconds)
            result.node_seconds = self._clock.seconds
            yield result

    def close(self) -> None:
        """End the connections."""

        async def end() -> None:
            if self._socket is not None:
                await self._socket.close()
            if self._http is not None:
                await self._http.close()

        self._loop.run_until_complete(end())
        self._loop.close()

    async def _run_row(self, result: RowResult) -> None:
        prompt = await self._upload_inputs(self._prepared.row_prompt(result.row))
        workflow = self._prepared.row_workflow(self._prepared.jobs.row(result.row))
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow is not None else {}
        body = {"prompt": prompt, "client_id": self._client, "extra_data": extra}
        await self._connect()
        http = self._http
        async with _asked(http, "POST", f"{self._url}/prompt", _LONG, json=body) as answer:
            data = json.loads(await _read(answer, _MAX_JSON))
            if answer.status != 200 or not isinstance(data, dict) or not isinstance(data.get("prompt_id"), str):
                raise ServerError(_refusal(data, answer.status))
        self._current = data["prompt_id"]
        ended = await self._follow(result, self._current)
        self._current = None
        await self._fetch(result, ended.get("outputs") or {})
        if problem := _failure_of(ended):
            raise ServerError(problem)

    async def _connect(self) -> None:
        if self._http is None:
            self._http = _new_session()
        if self._socket is None or self._socket.closed:
            address = f"{self._url}/ws?clientId={self._client}"
            connecting = self._http.ws_connect(address, max_msg_size=_MAX_MESSAGE, heartbeat=30)
            try:
                self._socket = await asyncio.wait_for(connecting, _CONNECT)
            except asyncio.TimeoutError:
                raise _no_answer(address) from None

    async def _follow(self, result: RowResult, prompt_id: str) -> dict[str, Any]:
        """Report the row's events until it has ended. Returns its entry of the server's history."""
        away_since: float | None = None
        while True:
            try:
                await self._connect()
                message = await self._socket.receive(timeout=_POLL)
                over = message.type.name == "TEXT" and self._on_message(result, prompt_id, message.data)
                if not over and message.type.name not in ("CLOSE", "CLOSING", "CLOSED", "ERROR"):
                    away_since = None
                    continue
            except asyncio.TimeoutError:
                pass  # nothing was said for a while, which a long step may explain
            except (OSError, _aiohttp().ClientError):
                await asyncio.sleep(1.0)
            try:
                if entry := await self._ended(prompt_id):
                    return entry
                away_since = None
            except (OSError, ValueError, asyncio.TimeoutError, _aiohttp().ClientError) as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > _MAX_AWAY:
                    raise ServerError(
                        f"the server {self._url} went away: {error}; start it and use --resume"
                    ) from error

    async def _ended(self, prompt_id: str) -> dict[str, Any] | None:
        """The row's entry of the history; None while it waits or runs. Raises ServerError when it is nowhere."""
        for _ in range(2):  # it may end between the two questions
            if entry := (await _get_json(self._http, f"{self._url}/history/{prompt_id}")).get(prompt_id):
                return entry
            if await self._is_queued(prompt_id):
                return None
        raise ServerError(
            f"the server {self._url} no longer has this row: it was taken out of its queue, or the server was "
            "restarted; run it again (of many rows --resume does the rest)"
        )

    async def _is_queued(self, prompt_id: str) -> bool:
        """Whether a row waits or runs there. The queue holds the prompts of all who use the server: where it is larger
        than we read, the row is taken to be in it."""
        try:
            queue = await _get_json(self._http, f"{self._url}/queue")
        except ServerError:
            return True
        return any(prompt_id == entry[1] for entry in (*queue["queue_running"], *queue["queue_pending"]))

    def _on_message(self, result: RowResult, prompt_id: str, text: str) -> bool:
        """Report one message of the websocket; True when it says that the row is over."""
        try:
            message = json.loads(text)
            kind, data = message["type"], message["data"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        if not isinstance(data, dict) or data.get("prompt_id", prompt_id) != prompt_id:
            return False
        node = data.get("node")
        if kind == "executing" and node is not None:
            result.executed.append(str(node))
            self._report(result, "executing", node, display=data.get("display_node", node))
        elif kind == "progress":
            label = self._prepared.prompt.get(str(node), {}).get("_meta", {}).get("title", "")
            self._report(result, "progress", node, value=data.get("value"), max=data.get("max"), label=label)
        elif kind == "executed":
            self._report(result, "executed", node, display=data.get("display_node", node))  # files come later
        elif kind == "execution_cached":
            self._report(result, "cached", None, nodes=data.get("nodes"))
        done = ("execution_success", "execution_error", "execution_interrupted")
        return kind in done or (kind == "executing" and node is None)

    def _report(self, result: RowResult, kind: str, node: Any, **data: Any) -> None:
        event = Event(kind, None if node is None else str(node), data)
        self._clock.on_event(event)
        self._reporter.event(result.row, event)

    async def _fetch(self, result: RowResult, outputs: dict[str, dict[str, list]]) -> None:
        """Download what was saved; previews stay there."""
        for node_id, ui in outputs.items():
            got: dict[str, list[dict[str, Any]]] = {}
            for name, entries in ui.items():
                for entry in entries if isinstance(entries, list) else ():
                    if isinstance(entry, dict) and entry.get("type") == "output" and "filename" in entry:
                        here = {**entry, **await self._download(result.row, entry)}
                        got.setdefault(name, []).append(here)
                        result.outputs.append((Path(here["subfolder"]) / here["filename"]).as_posix())
                    elif name == "text" and isinstance(entry, str):
                        result.texts.setdefault(node_id, []).append(entry)
            if got:
                self._report(result, "executed", node_id, ui=got)

    async def _download(self, row: int, entry: dict[str, Any]) -> dict[str, str]:
        query = {name: str(entry.get(name, "")) for name in ("filename", "subfolder", "type")}
        async with _asked(self._http, "GET", f"{self._url}/view", _LONG, params=query) as answer:
            answer.raise_for_status()
            data = await _read(answer, _MAX_FILE)
        tag = row_tag(row) if self._prepared.jobs.many else ""
        path = save_file(self._output, query["subfolder"], query["filename"], data, tag)
        return {"subfolder": path.parent.as_posix().removeprefix("."), "filename": path.name}

    async def _upload_inputs(self, prompt: Prompt) -> Prompt:
        """Pictures that lie in the input folder here are sent, and the prompt names them as the server does."""
        changed = dict(prompt)
        for node_id, node in prompt.items():
            specs = self._prepared.classes.schema(node["class_type"]).inputs
            for name, value in node["inputs"].items():
                wanted = name in specs and specs[name].options.get("image_upload")
                if wanted and isinstance(value, str) and (sent := await self._upload(value)):
                    inputs = {**changed[node_id]["inputs"], name: sent}
                    changed[node_id] = {**changed[node_id], "inputs": inputs}
        return changed

    async def _upload(self, name: str) -> str | None:
        path = path_inside(self._input, name)
        if not path.is_file():
            return None
        key = (str(path), path.stat().st_mtime_ns)
        if key not in self._uploaded:
            await self._connect()
            form = _aiohttp().FormData()
            form.add_field("image", path.read_bytes(), filename=path.name)
            form.add_field("type", "input")
            async with _asked(self._http, "POST", f"{self._url}/upload/image", _LONG, data=form) as answer:
                answer.raise_for_status()
                sent = json.loads(await _read(answer, _MAX_JSON))
            self._uploaded[key] = (Path(sent.get("subfolder", "")) / sent["name"]).as_posix()
        return self._uploaded[key]

    async def _cancel(self) -> None:
        """Take our row out of the server's queue, and stop it if it runs."""
        if self._current is None or self._http is None:
            return
        for path, body in (("queue", {"delete": [self._current]}), ("interrupt", {"prompt_id": self._current})):
            with contextlib.suppress(Exception):  # the user wants to leave, whatever the server thinks of it
                async with _asked(self._http, "POST", f"{self._url}/{path}", _LEAVE, json=body):
                    pass


def _refusal(data: Any, status: int) -> str:
    """Why the server refused a prompt, in one line."""
    if not isinstance(data, dict):
        return f"the server refused the graph (HTTP {status})"
    found = []
    for node_id, entry in (data.get("node_errors") or {}).items():
        for error in entry.get("errors", ()):
            found.append(f"node {node_id} ({entry.get('class_type')}): {error.get('message')}: {error.get('details')}")
    error = data.get("error") or {}
    whole = error.get("message") if isinstance(error, dict) else error
    return "the server refused the graph: " + ("; ".join(found) or str(whole or f"HTTP {status}"))


def _failure_of(entry: dict[str, Any]) -> str | None:
    """Why a row of the history failed, or None."""
    status = entry.get("status") or {}
    for kind, data in (message for message in status.get("messages") or () if len(message) == 2):
        if kind == "execution_error":
            where = f"node {data.get('node_id')} ({data.get('node_type')})"
            return f"{where}: {str(data.get('exception_message', '')).strip() or data.get('exception_type')}"
        if kind == "execution_interrupted":
            return "was interrupted on the server"
    return None if status.get("status_str", "success") == "success" else "failed on the server"
