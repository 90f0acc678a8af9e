"""Large graphs, many pages, long queues: messages do not grow with the graph, a page that does not read is dropped,
what waits and what is over takes a bounded memory."""

import asyncio
import itertools
import json
import time
import tracemalloc
from types import SimpleNamespace

import aiohttp
import pytest

from comfyui_unclip.workflows.engine.outcome import Event
from comfyui_unclip.workflows.server import pages as pages_module
from comfyui_unclip.workflows.server import worker as worker_module
from comfyui_unclip.workflows.server.job import Job
from comfyui_unclip.workflows.server.json_text import from_json, memory_of
from comfyui_unclip.workflows.server.pages import Pages
from comfyui_unclip.workflows.server.run_messages import RunMessages

NODES = 5000


class Counting(Pages):
    """Keeps what would be sent."""

    def __init__(self):
        super().__init__({})
        self.sent = []

    def send(self, client, kind, data, droppable=False):
        self.sent.append((kind, json.dumps(data)))


def test_messages_do_not_grow_with_the_graph():
    pages = Counting()
    messages = RunMessages(Job("p", 1.0, {}, [], "tab", previews=False), pages, set())
    step = SimpleNamespace(is_visible=False)
    for number in range(NODES):
        messages.on_event(Event("executing", str(number), {"display": str(number)}))
        messages.on_event(Event("progress", str(number), {"value": 2, "max": 2, "label": "", "step": step}))
    states = [text for kind, text in pages.sent if kind == "progress_state"]
    assert max(map(len, states)) < 10_000 and sum(len(text) for _, text in pages.sent) < 100e6
    last = json.loads(states[-1])["nodes"]
    assert last[str(NODES - 1)]["value"] == 2 and list(last)[-1] == str(NODES - 1)
    assert last[str(NODES - 2)] == {**last[str(NODES - 2)], "state": "finished", "value": 2, "max": 2}


def test_a_page_that_does_not_read_is_dropped_and_the_others_hear_on(ask, open_page, monkeypatch):
    monkeypatch.setattr(pages_module, "_MAX_BYTES", 1 << 20)

    async def scenario(client):
        reader, writer = await asyncio.open_connection(client.host, client.port, limit=1 << 12)
        host = f"{client.host}:{client.port}"
        lines = ["GET /ws?clientId=deaf HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]
        writer.write("\r\n".join(lines).encode())
        assert b"101" in await reader.readline()
        page = await open_page(client)
        editor_pages = next(iter(client.server.app.router.routes())).handler.args[0].pages
        assert "deaf" in editor_pages
        end = time.monotonic() + 20
        while "deaf" in editor_pages and time.monotonic() < end:
            editor_pages.send("deaf", "executed", {"x": "x" * 300_000})
            await asyncio.sleep(0.01)
        assert "deaf" not in editor_pages
        assert (await page.run({"1": {"class_type": "Warns", "inputs": {"text": "x"}}}))[0] == "execution_success"
        writer.close()

    ask(scenario)


def test_a_client_keeps_few_sockets_and_the_newest(ask, open_page):
    async def scenario(client):
        opened = [await open_page(client) for _ in range(pages_module._MAX_OF_CLIENT + 2)]
        for page in opened[:2]:
            message = await page.socket.receive(timeout=20)
            while message.type is aiohttp.WSMsgType.TEXT:
                message = await page.socket.receive(timeout=20)
            assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSE)
        for page in (opened[2], opened[-1]):
            await page.queue({"1": {"class_type": "Warns", "inputs": {"text": "x"}}})
            await page.hear("execution_success")

    ask(scenario)


@pytest.mark.parametrize("sockets", [80])
def test_a_large_run_before_many_pages_keeps_nobody_waiting(ask, open_page, sockets, api):
    """`python tests/campaigns/server.py --load` does it with 1,000 sockets and 5,000 nodes."""
    chain = {"1": {"class_type": "Number", "inputs": {"value": 1}}}
    for number in range(2, 601):
        chain[str(number)] = {"class_type": "Add", "inputs": {"a": [str(number - 1), 0], "b": 1}}
    chain["last"] = {"class_type": "Show", "inputs": {"value": ["600", 0]}}

    async def scenario(client):
        opened = [await client.ws_connect(f"/ws?clientId=tab{number}") for number in range(sockets)]
        page = await open_page(client)
        await page.queue(chain)
        waits = []
        while len(waits) < 10:
            start = time.perf_counter()
            assert (await client.get("/features")).status == 200
            waits.append(time.perf_counter() - start)
        await page.hear("execution_success")
        assert sorted(waits)[5] < 0.5, waits
        for socket in opened:
            await socket.close()

    ask(scenario)


def test_a_long_queue_of_messages_lets_others_have_their_turn():
    """A socket that takes everything at once never waits, and so would keep the loop to itself."""
    sent, turns = [], []

    class Socket:
        async def send_str(self, message):
            sent.append(message)

    async def scenario():
        page = pages_module._Page(Socket(), None)
        for number in range(1000):
            page.push(str(number), droppable=False)
        writer = asyncio.create_task(page.write())
        while len(sent) < 1000:
            turns.append(len(sent))
            await asyncio.sleep(0)
        writer.cancel()

    asyncio.run(scenario())
    assert sent == [str(number) for number in range(1000)]
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 32


@pytest.mark.parametrize("text", ['{"a": [1.5]},', "[],", '"\u65e5x",', "1234567,", '{"": {}},'])
def test_what_json_takes_in_memory_is_not_underestimated(text):
    text = f"[{text * 20_000}0]"
    tracemalloc.start()
    value = from_json(text)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.9 * taken < memory_of(value) < 2.5 * taken


def test_prompts_that_wait_and_jobs_that_are_over_have_a_bounded_memory(ask, open_page, samples, monkeypatch):
    monkeypatch.setattr(worker_module, "MAX_MEMORY", 1 << 20)
    sampler = {"class_type": "Samples", "inputs": {"steps": 4, "seed": 1, "hold": True}}
    held = {"1": sampler, "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
    small = {"1": {"class_type": "Warns", "inputs": {"text": "x"}}}
    large = {"prompt": small, "extra_data": {"extra_pnginfo": {}}}

    async def scenario(client):
        page = await open_page(client)
        await page.queue(held)
        await asyncio.to_thread(samples.held.wait, 20)
        answers = []
        for number in range(5):
            large["extra_data"]["extra_pnginfo"] = {"workflow": {"number": number, "pad": [{}] * 4000}}
            answers.append(await client.post("/prompt", json=large | {"client_id": page.name}))
        assert [answer.status for answer in answers] == [200, 200, 200, 503, 503]
        assert "3 prompts of 8" in await answers[-1].text() and "send it again" in await answers[-1].text()
        samples.gate.set()
        while (await (await client.get("/prompt")).json())["exec_info"]["queue_remaining"]:
            await asyncio.sleep(0.02)
        editor = next(iter(client.server.app.router.routes())).handler.args[0]
        assert len(editor.worker.ended()) == 4  # the held one is small
        assert (await client.post("/prompt", json=large | {"client_id": page.name})).status == 200
        while (await (await client.get("/prompt")).json())["exec_info"]["queue_remaining"]:
            await asyncio.sleep(0.02)
        ended = editor.worker.ended()
        assert sum(job.memory for job in ended) <= 1 << 20 and [bool(job.pnginfo) for job in ended] == [True] * 3

    ask(scenario)
