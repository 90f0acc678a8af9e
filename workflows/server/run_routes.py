"""Queueing, cancelling, and what was queued: /prompt, /queue, /history, /jobs, /interrupt, /free."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp import web

from ..checks.validation import validate
from .editor import Editor
from .job import STATUSES, Job
from .json_text import to_json
from .pages import MAX_CLIENT_ID
from .requests import bad_request, json_response, read_count, read_ids, read_json_object
from .worker import QueueFull

_MAX_ID = 128
_MAX_NUMBER = 1 << 53  # places in the queue, as exact as the page's numbers are


def routes() -> Iterator[tuple[str, str, Any]]:
    """(method, path, handler) of every address."""
    yield "GET", "/ws", websocket
    yield "GET", "/prompt", get_status
    yield "POST", "/prompt", queue_prompt
    yield "GET", "/queue", get_queue
    yield "POST", "/queue", change_queue
    yield "GET", "/history", get_history
    yield "GET", "/history/{id}", get_history_of
    yield "POST", "/history", change_history
    yield "GET", "/jobs", list_jobs
    yield "POST", "/jobs/cancel", cancel_jobs
    yield "GET", "/jobs/{id}", get_job
    yield "POST", "/jobs/{id}/cancel", cancel_job
    yield "POST", "/interrupt", interrupt
    yield "POST", "/free", free


async def websocket(editor: Editor, request: web.Request) -> web.StreamResponse:
    return await editor.pages.serve(request, editor.worker.greet)


async def get_status(editor: Editor, request: web.Request) -> web.Response:
    return json_response(editor.worker.status())


async def queue_prompt(editor: Editor, request: web.Request) -> web.Response:
    """Check a prompt and queue what of it can be made. Faults come back by node, in the editor's shape."""
    data = await read_json_object(request)
    if "prompt" not in data:
        error = {"type": "no_prompt", "message": "No prompt provided", "details": "send one", "extra_info": {}}
        return json_response({"error": error, "node_errors": {}}, 400)
    job_id = data.get("prompt_id", "") or uuid.uuid4().hex
    client, number = data.get("client_id"), data.get("number")
    targets, extra = data.get("partial_execution_targets"), data.get("extra_data") or {}
    if not _is_id(job_id, _MAX_ID):
        raise bad_request("prompt_id is not a short text")
    if not (client is None or _is_id(client, MAX_CLIENT_ID)):
        raise bad_request("client_id is not a short text")
    if not (number is None or (isinstance(number, int | float) and abs(number) <= _MAX_NUMBER)):
        raise bad_request(f"number is not a number of at most {_MAX_NUMBER}")
    if targets is not None:
        targets = read_ids(data, "partial_execution_targets")
    pnginfo = extra.get("extra_pnginfo") if isinstance(extra, dict) else None
    found = await editor.in_thread(validate, data["prompt"], editor.classes, targets)
    if found.error is not None:
        return json_response({"error": found.error, "node_errors": found.errors}, 400)
    job = Job(
        job_id,
        editor.worker.next_number(bool(data.get("front"))) if number is None else float(number),
        found.prompt,
        found.good_outputs,
        client,
        pnginfo if isinstance(pnginfo, dict) else None,
        previews=not isinstance(extra, dict) or extra.get("preview_method") != "none",
    )
    await editor.in_thread(job.measure)
    if _find(editor, job_id):  # asked last: whoever came in the meantime has queued by now
        raise bad_request("prompt_id is that of another prompt")
    try:
        editor.worker.add(job)
    except QueueFull as full:
        raise web.HTTPServiceUnavailable(text=str(full)) from None
    return json_response({"prompt_id": job.id, "number": job.number, "node_errors": found.errors})


async def get_queue(editor: Editor, request: web.Request) -> web.Response:
    worker = editor.worker
    running, pending = await _entries(worker.running()), await _entries(worker.waiting())
    text = f'{{"queue_running": [{", ".join(running)}], "queue_pending": [{", ".join(pending)}]}}'
    return web.Response(text=text, content_type="application/json")


async def change_queue(editor: Editor, request: web.Request) -> web.Response:
    data = await read_json_object(request)
    if data.get("clear"):
        editor.worker.remove()
    editor.worker.remove(read_ids(data, "delete"))
    return json_response({})


async def get_history(editor: Editor, request: web.Request) -> web.Response:
    most, offset = read_count(request, "max_items", 200), request.query.get("offset")
    jobs = editor.worker.ended()
    start = read_count(request, "offset", 0) if offset not in (None, "-1") else max(0, len(jobs) - most)
    return await _history(jobs[start : start + most])


async def get_history_of(editor: Editor, request: web.Request) -> web.Response:
    wanted = request.match_info["id"]
    return await _history([job for job in editor.worker.ended() if job.id == wanted])


async def change_history(editor: Editor, request: web.Request) -> web.Response:
    data = await read_json_object(request)
    if data.get("clear"):
        editor.worker.forget()
    editor.worker.forget(read_ids(data, "delete"))
    return json_response({})


async def list_jobs(editor: Editor, request: web.Request) -> web.Response:
    """The newest first, running and waiting ones before those that are over."""
    wanted = {status for status in request.query.get("status", "").split(",") if status}
    if unknown := wanted - set(STATUSES):
        raise bad_request(f"status {min(unknown)!r} is not one of {', '.join(STATUSES)}")
    worker = editor.worker
    jobs = [*reversed(worker.waiting()), *worker.running(), *reversed(worker.ended())]
    found = [job for job in jobs if not wanted or job.status in wanted]
    if request.query.get("sort_order") == "asc":
        found.reverse()
    offset, most = read_count(request, "offset", 0), read_count(request, "limit", 200)
    page = found[offset : offset + most]
    pagination = {
        "offset": offset,
        "limit": most,
        "total": len(found),
        "has_more": offset + len(page) < len(found),
    }
    return json_response({"jobs": [job.summary() for job in page], "pagination": pagination})


async def get_job(editor: Editor, request: web.Request) -> web.Response:
    job = _find(editor, request.match_info["id"])
    if job is None:
        raise web.HTTPNotFound(text="there is no such job")
    return json_response(job.detail())


async def cancel_job(editor: Editor, request: web.Request) -> web.Response:
    return json_response({"cancelled": _cancel(editor, request.match_info["id"])})


async def cancel_jobs(editor: Editor, request: web.Request) -> web.Response:
    ids = read_ids(await read_json_object(request), "job_ids")
    return json_response({"cancelled": [one for one in ids if _cancel(editor, one)]})


async def interrupt(editor: Editor, request: web.Request) -> web.Response:
    wanted = (await read_json_object(request)).get("prompt_id") or None
    if not (wanted is None or isinstance(wanted, str)):
        raise bad_request("prompt_id is not a text")
    editor.worker.cancel_running(wanted)
    return json_response({})


async def free(editor: Editor, request: web.Request) -> web.Response:
    data = await read_json_object(request)
    if data.get("unload_models") or data.get("free_memory"):
        editor.worker.free()
    return json_response({})


async def _entries(jobs: Sequence[Job]) -> list[str]:
    """Each job's entry of the queue as JSON. Others are answered in between: prompts may be large."""
    found = []
    for job in jobs:
        found.append(to_json(job.queue_entry()))
        await asyncio.sleep(0)
    return found


async def _history(jobs: Sequence[Job]) -> web.Response:
    found = []
    for job in jobs:
        found.append(f"{to_json(job.id)}: {to_json(job.history_entry())}")
        await asyncio.sleep(0)
    return web.Response(text=f"{{{', '.join(found)}}}", content_type="application/json")


def _is_id(value: Any, most: int) -> bool:
    return isinstance(value, str) and len(value) <= most and value.isprintable()


def _cancel(editor: Editor, job_id: str) -> bool:
    """Stop a job wherever it is. One that is over stays as it is."""
    waits = any(job.id == job_id for job in editor.worker.waiting())
    editor.worker.remove([job_id])
    return editor.worker.cancel_running(job_id) or waits


def _find(editor: Editor, job_id: str) -> Job | None:
    worker = editor.worker
    jobs = [*worker.waiting(), *worker.running(), *worker.ended()]
    return next((job for job in jobs if job.id == job_id), None)
