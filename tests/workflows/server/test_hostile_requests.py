"""What no page sends: refused in words, never a traceback, never let in, and nothing that is kept is spoilt by it."""

import asyncio
import importlib.util
import json
import sys

import pytest

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS
from comfyui_unclip.unclip_core import disk
from comfyui_unclip.workflows.server import user_routes
from comfyui_unclip.workflows.server.json_text import MAX_DEPTH
from comfyui_unclip.workflows.server.requests import MAX_JSON

NODE = {"class_type": "Show", "inputs": {"value": 1}}
GREATEST = "9" * 400


@pytest.fixture
def toy_classes(toy_classes):
    return {**toy_classes, "UnCLIPExamplePicture": NODE_CLASS_MAPPINGS["UnCLIPExamplePicture"]}


@pytest.fixture
def campaign(repository):
    path = repository / "tests" / "campaigns" / "server.py"
    specification = importlib.util.spec_from_file_location("server_campaign", path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # where its dataclasses look for it
    specification.loader.exec_module(module)
    return module


def prompt(**more):
    return json.dumps({"prompt": {"1": NODE}, **more})


def nested(depth):
    return "[" * depth + "]" * depth


JSON = {"Content-Type": "application/json"}
LONG, FAR = "a" * 300, "/".join("a" for _ in range(2000)).replace("/", "%2F")
REFUSED = {
    "number": (
        "/prompt",
        prompt(number=0).replace('"number": 0', f'"number": {GREATEST}'),
        {},
        "number is not a number",
    ),
    "no number": ("/prompt", prompt().replace('"value": 1', '"value": NaN'), {}, "NaN, which JSON does not have"),
    "too large": ("/prompt", prompt().replace('"value": 1', '"value": 1e999'), {}, "1e999, which is too large"),
    "nesting": ("/settings", f'{{"a": {nested(MAX_DEPTH)}}}', {}, f"deeper than {MAX_DEPTH} levels"),
    "more nesting": ("/settings/a", nested(100_000), {}, f"deeper than {MAX_DEPTH} levels"),
    "NaN, nested": ("/settings", f'{{"a": {nested(90)[:90]}NaN{nested(90)[90:]}}}', {}, "NaN"),
    "class": ("/prompt", prompt().replace('"Show"', '["Show"]'), {}, "has no class_type"),
    "long name": (f"/userdata/{LONG}.json", "{}", {}, "names have at most 255"),
    "long way": (f"/userdata/{FAR}", "{}", {}, "64 folders"),
    "control": ("/userdata/a%1B%5B2J.json", "{}", {}, "holds a control character"),
    "UTF-16": ("/prompt", b"\xff\xfe{", {}, "not JSON that can be used"),
    "coding": ("/settings", "{}", {"Content-Encoding": "deflate"}, ""),
    "boundary": ("/upload/image", "x", {"Content-Type": "multipart/form-data"}, "cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_a_sentence(ask, name):
    address, body, headers, said = REFUSED[name]

    async def scenario(client):
        from yarl import URL

        address_as_it_is = URL(str(client.make_url("")).rstrip("/") + address, encoded=True)
        async with client.session.post(address_as_it_is, data=body, headers=JSON | headers) as answer:
            text = await answer.text()
            assert answer.status == 400 and said in text and "Traceback" not in text, text
        assert (await client.get("/features")).status == 200

    ask(scenario)


def test_a_charset_that_is_none_does_not_matter_and_bytes_in_a_token_are_no_token(ask):
    async def scenario(client):
        headers = {"Content-Type": "application/json; charset=klingon"}
        assert (await client.post("/settings", data=b'{"a": 1}', headers=headers)).status == 200
        assert (await (await client.get("/settings/a")).json()) == 1

    async def locked(client):
        reader, writer = await asyncio.open_connection(client.host, client.port)
        host = f"{client.host}:{client.port}".encode()
        writer.write(b"GET /features HTTP/1.1\r\nHost: " + host + b"\r\nAuthorization: Bearer \xff\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"401"
        writer.close()

    ask(scenario)
    ask(locked, token="0123456789abcdef")


def test_a_mask_for_what_is_no_picture_is_refused(ask, picture, tmp_path):
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "page.html").write_text("<html>")

    async def scenario(client):
        import aiohttp

        form = aiohttp.FormData()
        form.add_field("image", picture(), filename="mask.png")
        form.add_field("original_ref", json.dumps({"filename": "page.html", "type": "input"}))
        answer = await client.post("/upload/mask", data=form)
        assert answer.status == 400 and "page.html" in await answer.text()

    ask(scenario)


def test_a_picture_for_a_folder_that_is_a_file_is_refused(ask, picture, tmp_path):
    """Its name is not taken, whatever number is added to it."""
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "kept.png").write_bytes(picture())

    async def scenario(client):
        import aiohttp

        for subfolder in ("kept.png", "kept.png/deeper"):
            form = aiohttp.FormData()
            form.add_field("image", picture(), filename="kept.png")
            form.add_field("subfolder", subfolder)
            answer = await client.post("/upload/image", data=form)
            assert answer.status == 400 and "would have to be a folder" in await answer.text()
        answer = await client.post("/userdata/workflows%2Fa.json", data=b"{}")
        assert answer.status == 200
        answer = await client.post("/userdata/workflows%2Fa.json%2Fb.json", data=b"{}")
        assert answer.status == 400 and "would have to be a folder" in await answer.text()

    ask(scenario)


def test_a_prompt_over_the_stated_size_is_refused_before_it_is_read(ask):
    async def scenario(client):
        large = prompt(extra_data={"x": "x" * MAX_JSON})
        answer = await client.post("/prompt", data=large, headers=JSON)
        assert answer.status == 413 and "at most 8.4 MB are taken" in await answer.text()
        fits = prompt(extra_data={"x": "x" * (MAX_JSON - 1000)})
        assert (await client.post("/prompt", data=fits, headers=JSON)).status == 200

    ask(scenario)


def test_settings_that_cannot_be_read_are_set_aside_and_said(ask, tmp_path, caplog):
    file, kept = tmp_path / "user" / "comfy.settings.json", []

    async def scenario(client):
        assert await (await client.get("/settings")).json() == user_routes.FIRST_SETTINGS
        kept.append((await client.post("/settings/mine", data=b"5")).status)
        assert (await (await client.get("/settings")).json())["mine"] == 5

    for number, broken in enumerate((b'{"a": NaN}', b"[" * 5000, b"[1]", b"\xff"), 1):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(broken)
        ask(scenario)
        aside = file.with_name(f"comfy.settings.unreadable-{number}.json")
        assert aside.read_bytes() == broken and aside.name in caplog.text
    assert kept == [200] * 4 and caplog.text.count("cannot be read") == 4


def test_settings_do_not_grow_beyond_their_limit_and_a_larger_file_can_be_brought_below_it(ask, tmp_path):
    file = tmp_path / "user" / "comfy.settings.json"
    limit = user_routes.MAX_SETTINGS

    async def change(client, value, **others):
        answer = await client.post("/settings", json={"Mine.Notes": value, **others})
        return answer.status, await answer.text()

    async def fill(client):
        status, said = await change(client, "x" * limit)
        assert status == 400 and "at most 1.0 MB are kept" in said and "the largest is 'Mine.Notes', 1.0 MB" in said
        assert (await change(client, "x" * (limit - 1000)))[0] == 200 and limit - 1000 < file.stat().st_size <= limit

    async def shrink(client):
        assert (await change(client, "x" * (3 * limit + 1)))[0] == 400
        assert (await change(client, "x" * (3 * limit), more=1))[0] == 400
        for size in (3 * limit, 2 * limit, limit, 5):
            assert (await change(client, "x" * size))[0] == 200
        assert (await change(client, "x" * limit))[0] == 400
        assert (await (await client.get("/settings")).json())["Mine.Notes"] == "x" * 5

    ask(fill)
    file.write_text(json.dumps({"Mine.Notes": "x" * (3 * limit)}))
    ask(shrink)


def test_what_is_left_is_answered_in_words_and_a_full_disk_is_named(ask, monkeypatch, caplog):
    def fails(error):
        def write(*_):
            raise error

        return write

    async def scenario(client):
        for error, status, said in (
            (disk.DiskFull(28, "the disk of /x has 0 bytes free"), 507, "the disk of /x has 0 bytes free"),
            (PermissionError(13, "Permission denied"), 400, "Permission denied"),
            (RecursionError("too deep"), 400, "too deep"),
            (KeyError("ours"), 500, "KeyError"),
        ):
            monkeypatch.setattr(user_routes, "write_whole", fails(error))
            answer = await client.post("/settings", json={"a": 1})
            assert (answer.status, said in await answer.text()) == (status, True)

    ask(scenario)
    assert caplog.text.count("Traceback") == 1  # of our own mistake, for us


@pytest.mark.parametrize("token", [None, "0123456789abcdef"])
def test_a_share_of_the_campaign_finds_nothing(ask, campaign, tmp_path, token):
    campaign.PATIENCE = 20.0  # other tests run at the same time

    async def scenario(client):
        before = campaign.furnish(tmp_path)
        requests = campaign.Requests(7, f"{client.host}:{client.port}", token)
        outcome = await campaign.send_all(requests, list(range(250)))
        assert not outcome.found and campaign.outside(tmp_path) == before
        statuses = outcome.statuses
        assert outcome.past > 200 and statuses[200] > 10 and (statuses[401] > 50) == (token is not None), statuses

    ask(scenario, token=token)
