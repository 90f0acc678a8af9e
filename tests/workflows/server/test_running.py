"""Prompts queued, run, told, cancelled and remembered, over the wire and without a browser."""

import asyncio
import json
import struct

import pytest


def sampling(steps=4, seed=1, hold=False):
    """Samples -> SaveImage."""
    return {
        "1": {"class_type": "Samples", "inputs": {"steps": steps, "seed": seed, "hold": hold}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "made"}},
    }


async def table(response):
    """The JSON of an answer that must be good."""
    async with response as found:
        assert found.status == 200, await found.text()
        return await found.json()


def previews(page):
    """(metadata, JPEG bytes) of every preview that came."""
    for kind, data in page.heard:
        if kind == "binary" and struct.unpack(">I", data[:4])[0] == 4:
            size = struct.unpack(">I", data[4:8])[0]
            yield json.loads(data[8 : 8 + size]), data[8 + size :]


def test_a_run_is_told_step_by_step_and_remembered(ask, open_page, tmp_path):
    async def scenario(client):
        page = await open_page(client)
        await page.socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        assert (await page.hear("feature_flags"))["supports_preview_metadata"]
        graph = {"id": "abc", "nodes": []}
        kind, _, kinds = await page.run(sampling(), extra_data={"extra_pnginfo": {"workflow": graph}})
        assert kind == "execution_success"
        order = [kind for kind in dict.fromkeys(kinds) if kind not in ("status", "binary", "progress_state")]
        wanted = ["execution_start", "execution_cached", "executing", "progress", "executed", "execution_success"]
        assert order == wanted
        steps = [data for kind, data in page.heard if kind == "progress"]
        assert [step["value"] for step in steps] == [1, 2, 3, 4] and {step["node"] for step in steps} == {"1"}
        about, jpeg = list(previews(page))[-1]
        assert about["node_id"] == "1" and about["image_type"] == "image/jpeg" and jpeg[:2] == b"\xff\xd8"
        states = [data for kind, data in page.heard if kind == "progress_state"][-1]["nodes"]
        assert states["1"]["state"] == "finished" and states["2"]["state"] == "running"

        history = await table(client.get("/history"))
        (job_id, entry), *others = history.items()
        assert not others and entry["status"]["status_str"] == "success" and entry["prompt"][2] == sampling()
        shown = entry["outputs"]["2"]["images"][0]
        assert await table(client.get(f"/api/history/{job_id}")) == history
        jobs = await table(client.get("/api/jobs?status=completed,failed,cancelled&limit=10"))
        job = jobs["jobs"][0]
        assert jobs["pagination"] == {"offset": 0, "limit": 10, "total": 1, "has_more": False}
        assert job["status"] == "completed" and job["workflow_id"] == "abc" and job["outputs_count"] == 1
        assert job["preview_output"] == {**shown, "nodeId": "2", "mediaType": "images"}
        assert job["create_time"] <= job["execution_start_time"] <= job["execution_end_time"]
        detail = await table(client.get(f"/api/jobs/{job_id}"))
        assert detail["workflow"]["extra_data"]["extra_pnginfo"]["workflow"] == graph
        async with client.get("/api/view", params=shown) as picture:
            assert picture.content_type == "image/png"
            assert await picture.read() == (tmp_path / "out" / shown["filename"]).read_bytes()

    ask(scenario)


def test_the_second_run_takes_everything_from_the_cache(ask, open_page):
    async def scenario(client):
        page = await open_page(client)
        await page.run(sampling())
        kind, _, kinds = await page.run(sampling())
        assert kind == "execution_success" and "progress" not in kinds and "executed" in kinds
        await table(client.post("/api/free", json={"unload_models": True}))
        assert "progress" in (await page.run(sampling()))[2]

    ask(scenario)


@pytest.mark.parametrize("asking", ["/api/interrupt", "/interrupt+id", "/api/jobs/ID/cancel", "/api/jobs/cancel"])
def test_cancel_twice_in_the_middle_and_go_on(ask, open_page, samples, asking):
    async def scenario(client):
        page = await open_page(client)
        job = (await page.queue(sampling(hold=True)))["prompt_id"]
        after = (await page.queue(sampling(seed=2)))["prompt_id"]
        assert await asyncio.to_thread(samples.held.wait, 20)
        body = {"prompt_id": job} if asking.endswith("+id") else {"job_ids": [job]} if asking[-5:] == "ancel" else None
        for _ in range(2):
            await table(client.post(asking.removesuffix("+id").replace("ID", job), json=body))
        samples.gate.set()
        told = await page.hear("execution_interrupted")
        assert (told["prompt_id"], told["node_id"], told["node_type"]) == (job, "1", "Samples")
        assert (await page.hear("execution_success"))["prompt_id"] == after
        found = await table(client.get("/api/jobs"))
        assert [entry["status"] for entry in found["jobs"]] == ["completed", "cancelled"]
        assert (await table(client.get(f"/history/{job}")))[job]["status"]["completed"] is False

    ask(scenario)


def test_cancelling_another_or_nothing_stops_nobody(ask, open_page, samples):
    async def scenario(client):
        page = await open_page(client)
        await table(client.post("/interrupt"))  # nothing runs: the next run is not hit by it
        job = (await page.queue(sampling(hold=True)))["prompt_id"]
        assert await asyncio.to_thread(samples.held.wait, 20)
        await table(client.post("/interrupt", json={"prompt_id": "another"}))
        assert await table(client.post("/jobs/another/cancel")) == {"cancelled": False}
        samples.gate.set()
        assert (await page.hear("execution_success"))["prompt_id"] == job

    ask(scenario)


def test_two_tabs_queue_at_once_and_each_hears_its_own(ask, open_page, samples):
    async def scenario(client):
        left, right = await open_page(client, "left"), await open_page(client, "right")
        first = await left.queue(sampling(hold=True))
        assert await asyncio.to_thread(samples.held.wait, 20)
        queued = await asyncio.gather(*(tab.queue(sampling(seed=n)) for n in range(2, 8) for tab in (left, right)))
        queue = await table(client.get("/queue"))
        assert [entry[1] for entry in queue["queue_running"]] == [first["prompt_id"]]
        assert len(queue["queue_pending"]) == 12
        samples.gate.set()
        own = [{job["prompt_id"] for job in queued[start::2]} for start in (0, 1)]
        for page, wanted in ((left, own[0] | {first["prompt_id"]}), (right, own[1])):
            heard = {(await page.hear("execution_success"))["prompt_id"] for _ in wanted}
            assert heard == wanted
            assert {data["prompt_id"] for kind, data in page.heard if kind == "progress"} <= wanted

    ask(scenario)


def test_the_queue_can_be_jumped_thinned_and_cleared(ask, open_page, samples):
    async def scenario(client):
        page = await open_page(client)
        await page.queue(sampling(hold=True))
        assert await asyncio.to_thread(samples.held.wait, 20)
        a, b, c = [(await page.queue(sampling(seed=n)))["prompt_id"] for n in (2, 3, 4)]
        front = (await page.queue(sampling(seed=5), front=True))["prompt_id"]
        await table(client.post("/queue", json={"delete": [b]}))
        pending = (await table(client.get("/queue")))["queue_pending"]
        assert [entry[1] for entry in pending] == [front, a, c]
        waiting = await table(client.get("/api/jobs?status=pending&limit=2"))
        assert [job["id"] for job in waiting["jobs"]] == [c, a] and waiting["pagination"]["has_more"]
        assert await table(client.post(f"/api/jobs/{a}/cancel")) == {"cancelled": True}
        await table(client.post("/api/queue", json={"clear": True}))
        assert (await table(client.get("/prompt")))["exec_info"]["queue_remaining"] == 1
        samples.gate.set()
        await page.hear("execution_success")
        await table(client.post("/history", json={"clear": True}))
        assert await table(client.get("/history")) == {}

    ask(scenario)


def test_the_page_goes_in_the_middle_and_comes_back(ask, open_page, samples):
    async def scenario(client):
        page = await open_page(client)
        job = (await page.queue(sampling(hold=True)))["prompt_id"]
        assert await asyncio.to_thread(samples.held.wait, 20)
        page.socket._response.connection.transport.abort()  # no goodbye: the cable is cut
        other = await open_page(client, "tab")
        assert (await other.hear("executing"))["node"] == "1"
        await other.socket.close()
        samples.gate.set()
        for _ in range(200):
            if found := await table(client.get(f"/history/{job}")):
                break
            await asyncio.sleep(0.02)
        assert found[job]["status"]["status_str"] == "success"
        again = await open_page(client)
        assert (await again.run(sampling(seed=3)))[0] == "execution_success"

    ask(scenario)


def test_a_failing_node_is_named(ask, open_page):
    prompt = {
        "1": {"class_type": "Fails", "inputs": {"value": 3}},
        "2": {"class_type": "Show", "inputs": {"value": ["1", 0]}},
    }

    async def scenario(client):
        page = await open_page(client)
        kind, data, _ = await page.run(prompt)
        assert kind == "execution_error"
        assert (data["node_id"], data["node_type"], data["exception_type"]) == ("1", "Fails", "ValueError")
        assert data["exception_message"] == "3 is\nunlucky" and data["current_inputs"] == {"value": [3]}
        assert any("unlucky" in line for line in data["traceback"])
        job = (await table(client.get("/jobs?status=failed")))["jobs"][0]
        assert job["execution_error"]["node_id"] == "1"
        assert (await page.run(sampling()))[0] == "execution_success"

    ask(scenario)


def test_what_is_wrong_comes_back_by_node_and_the_rest_runs(ask, open_page):
    bad = {"3": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}

    async def scenario(client):
        page = await open_page(client)
        async with client.post("/api/prompt", json={"prompt": bad}) as response:
            refused = await response.json()
            assert response.status == 400
        assert refused["error"]["type"] == "prompt_outputs_failed_validation"
        assert refused["node_errors"]["3"]["errors"][0]["type"] == "required_input_missing"
        job = await page.queue({**sampling(), **bad})
        assert job["node_errors"]["3"]["class_type"] == "SaveImage"
        await page.hear("execution_success", prompt_id=job["prompt_id"])
        only = await page.queue({**sampling(seed=9), **bad}, partial_execution_targets=["2"])
        assert only["node_errors"] == {}
        unknown = {"1": {"class_type": "KSampler", "inputs": {}}}
        async with client.post("/api/prompt", json={"prompt": unknown}) as response:
            assert response.status == 400 and "KSampler" in await response.text()

    ask(scenario)


def test_a_warning_stands_under_its_node_until_it_is_taken_back(ask, open_page):
    async def scenario(client):
        page = await open_page(client)
        for text in ("unknown word", ""):
            await page.run({"7": {"class_type": "Warns", "inputs": {"text": text}}})
        texts = [data for kind, data in page.heard if kind == "binary"]
        assert texts == [struct.pack(">II", 3, 1) + b"7" + text for text in (b"unknown word", b" ")]
        shown = [data["output"] for kind, data in page.heard if kind == "executed"]
        assert shown[0] == {"text": ["unknown word"], "number": [None]}  # NaN would stop the page

    ask(scenario)


def test_a_warning_of_one_graph_is_not_taken_back_from_a_node_of_another(ask, open_page):
    """Ids of nodes are unique in a graph alone."""

    def graph(name):
        return {"extra_pnginfo": {"workflow": {"id": name, "nodes": []}}}

    async def scenario(client):
        page = await open_page(client)
        for text, name in (("unknown word", "first"), ("", "second"), ("", "first"), ("", "first")):
            await page.run({"7": {"class_type": "Warns", "inputs": {"text": text}}}, extra_data=graph(name))
            await page.client.post("/api/free", json={"free_memory": True})  # nothing is kept from run to run
        texts = [data[9:] for kind, data in page.heard if kind == "binary"]
        assert texts == [b"unknown word", b" "]

    ask(scenario)


def test_previews_can_be_turned_off(ask, open_page):
    async def scenario(client):
        page = await open_page(client)
        await page.run(sampling(), extra_data={"preview_method": "none"})
        assert not list(previews(page))

    ask(scenario)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"[" * 100_000, "not JSON"),
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"prompt": {}, "client_id": 5}', "client_id"),
        (b'{"prompt": {}, "number": "x"}', "number"),
        (b'{"prompt": {}, "number": NaN}', "NaN"),
        (b'{"prompt": {}, "prompt_id": ["x"]}', "prompt_id"),
        (b'{"prompt": {}, "partial_execution_targets": "x"}', "partial_execution_targets"),
        (b'{"prompt": [1, 2]}', "not a table of nodes"),
        (b'{"prompt": {"1": 5}}', "not a table of nodes"),
        (b'{"prompt": {}}', "no output node"),
        (b"{}", "No prompt"),
    ],
)
def test_a_prompt_that_is_none_is_refused_in_words(ask, body, why):
    async def scenario(client):
        async with client.post("/api/prompt", data=body) as response:
            assert response.status == 400 and why in await response.text()

    ask(scenario)


def test_the_same_id_is_not_given_twice(ask, open_page):
    async def scenario(client):
        page = await open_page(client)
        await page.run(sampling(), prompt_id="mine")
        async with client.post("/api/prompt", json={"prompt": sampling(), "prompt_id": "mine"}) as response:
            assert response.status == 400

    ask(scenario)


def test_stopping_the_server_stops_the_run(ask, open_page, samples):
    async def scenario(client):
        page = await open_page(client)
        await page.queue(sampling(steps=1000, hold=True))
        assert await asyncio.to_thread(samples.held.wait, 20)
        samples.gate.set()

    ask(scenario)  # leaves, although many steps are left
