"""`--server URL`, against a server of our own that speaks ComfyUI's protocol (comfy_server.py)."""

import asyncio
import contextlib
import gzip
import json
import os
import signal
import threading
import time

import pytest
from aiohttp import web
from PIL import Image

from comfyui_unclip.tests.workflows.comfy_server import ComfyServer
from comfyui_unclip.workflows.cli import run
from comfyui_unclip.workflows.places import comfyui_server

GRAPH = {
    "1": {"class_type": "Paint", "inputs": {"seed": 3, "text": "a"}, "_meta": {"title": "prompt"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "pic"}},
}


@pytest.fixture
def server():
    server = ComfyServer()
    yield server
    server.stop()


@pytest.fixture
def remote(server, tmp_path, capsys):
    """remote(*arguments, graph=GRAPH) -> (exit code, stdout, stderr); downloads go to tmp_path/out."""

    def call(*arguments, graph=GRAPH):
        file = tmp_path / "graph.json"
        file.write_text(json.dumps(graph))
        code = run(["run", str(file), "--server", server.url, "-o", str(tmp_path / "out"), *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def shade(path):
    return Image.open(path).getpixel((0, 0))[0]


def test_a_graph_is_queued_followed_and_its_picture_fetched(remote, server, tmp_path):
    code, out, _ = remote("-s", "seed=9")
    assert code == 0 and out.splitlines()[-1] == f"saved {tmp_path / 'out' / 'pic_00001_.png'}"
    assert shade(tmp_path / "out" / "pic_00001_.png") == 9
    (sent,) = server.prompts
    assert sent["prompt"]["1"]["inputs"] == {"seed": 9, "text": "a"} and sent["extra_data"] == {}


def test_rows_resume_and_json_work_as_at_home(remote, server, tmp_path):
    out_folder = tmp_path / "out"
    code, out, _ = remote("--sweep", "seed=1..3", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and {"begin", "executing", "progress", "executed", "row", "end"} <= {e["event"] for e in events}
    assert [shade(out_folder / f"pic_row0000{row}_00001_.png") for row in (1, 2, 3)] == [1, 2, 3]
    (out_folder / "pic_row00002_00001_.png").unlink()
    code, out, _ = remote("--sweep", "seed=1..3", "--resume", "-q")
    assert code == 0 and out == f"{out_folder / 'pic_row00002_00001_.png'}\n" and len(server.prompts) == 4


def test_an_existing_file_is_never_overwritten(remote, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pic_00001_.png").write_bytes(b"mine")
    assert remote("-q")[1] == f"{tmp_path / 'out' / 'pic_00002_.png'}\n"
    assert (tmp_path / "out" / "pic_00001_.png").read_bytes() == b"mine"


def test_refusals_and_failures_are_one_line_and_rows_go_on(remote, server, tmp_path):
    table = tmp_path / "jobs.csv"
    table.write_text("text\nrefuse\nfail\nfine\n")
    code, out, err = remote("--table", table, "-q")
    assert code == 1 and len(out.splitlines()) == 1
    assert err.splitlines() == [
        "error: row 1: the server refused the graph: node 1 (Paint): Custom validation failed for node: "
        "text - not that one",
        "error: row 2: node 1 (Paint): no paint",
    ]


def test_the_servers_own_declarations_are_checked_first(remote, server):
    code, _, err = remote("-s", "seed=999")
    assert code == 2 and "999 is above the maximum 255" in err and not server.prompts
    code, _, err = remote(graph={"1": {"class_type": "Elsewhere", "inputs": {}}})
    assert code == 2 and "unknown node class 'Elsewhere'" in err


def test_a_socket_that_breaks_in_the_middle_costs_nothing(remote, server, tmp_path):
    server.drop_socket_once = True
    assert remote("-q")[0] == 0
    assert shade(tmp_path / "out" / "pic_00001_.png") == 3


def test_a_row_that_the_server_lost_is_not_waited_for(remote, server, monkeypatch):
    """Somebody took it out of the queue there, or the server was started anew."""
    from comfyui_unclip.workflows.places import comfyui_server

    monkeypatch.setattr(comfyui_server, "_POLL", 0.1)
    server.lose = True
    code, _, err = remote("-q")
    assert code == 1 and "no longer has this row: it was taken out of its queue" in err


DEEP = "[" * 100_000


def saved(name, subfolder=""):
    """A history in which prompt `p` has ended and saved one file."""
    files = {"2": {"images": [{"filename": name, "subfolder": subfolder, "type": "output"}]}}
    return json.dumps({"p": {"status": {"status_str": "success", "messages": []}, "outputs": files}})


LIES = {
    "nodes": ("/object_info", "[]"),
    "a node": ("/object_info", '{"Paint": {"input": {"required": {"seed": []}}}}'),
    "nodes, nested": ("/object_info", DEEP),
    "prompt": ("/prompt", '{"prompt_id": ["a"]}'),
    "prompt, nested": ("/prompt", DEEP),
    "no JSON": ("/prompt", b"\xff"),
    "refusal": ("/prompt", '{"node_errors": [1]}'),
    "history": ("/history", "[]"),
    "history, nested": ("/history", DEEP),
    "outputs": ("/history", '{"p": {"outputs": [1], "status": 3}}'),
    "out": ("/history", saved("../../outside.png")),
    "out by the folder": ("/history", saved("x.png", "../..")),
    "hidden": ("/history", saved(".profile")),
    "hidden folder": ("/history", saved("authorized_keys", ".ssh")),
    "results": ("/history", saved("results.jsonl")),
    "control": ("/history", saved("\x1b[2Jx.png")),
    "long": ("/history", saved("x" * 300)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies_writes_nothing_elsewhere_and_is_told_in_a_line(remote, server, tmp_path, lie):
    path, answer = LIES[lie]
    server.lies = {"/prompt": '{"prompt_id": "p"}'} if path == "/history" else {}
    server.lies |= {path: answer, "/view": b"whatever"}
    before = {found for found in tmp_path.rglob("*")}
    code, out, err = remote("-q")
    assert code in (1, 2) and out == "" and "Traceback" not in err
    (line,) = err.splitlines()
    assert line.startswith("error: ") and "\x1b" not in line
    assert {found for found in tmp_path.rglob("*")} - before <= {tmp_path / "graph.json", tmp_path / "out"}


def sent_on(place):
    async def answer(request):
        return web.Response(status=307, headers={"Location": place})

    return answer


def blocks(block, count, seconds=0.0, **headers):
    """An answer in blocks, a moment apart."""

    async def answer(request):
        response = web.StreamResponse(headers=headers)
        with contextlib.suppress(ConnectionError):  # the client has had enough
            await response.prepare(request)
            for _ in range(count):
                await response.write(block)
                await asyncio.sleep(seconds)
        return response

    return answer


ZIPPED = {"Content-Encoding": "gzip"}
ANSWERS = {
    "to a file": (sent_on("file:///etc/passwd"), "sends us on from"),
    "to another machine": (sent_on("http://169.254.169.254/latest"), "sends us on from"),
    "to itself": (sent_on("?again"), "sends us on from"),
    "control": (sent_on("http://a/%1b[2J"), "sends us on from"),
    "no end": (blocks(b" " * 65536, 4000), "sends more than 1 MB"),
    "bomb": (blocks(gzip.compress(bytes(8 << 20)), 1, **ZIPPED), "sends more than 1 MB"),
    "no gzip": (blocks(b"GZ" * 2000, 1, **ZIPPED), "400"),
    "a byte at a time": (blocks(b" ", 200, 0.1), "does not come, or has no end"),
    "silence": (blocks(b" ", 2, 20.0), "does not come, or has no end"),
    "too short": (blocks(b"[1", 1, **{"Content-Length": "9"}), ""),
}


@pytest.mark.parametrize("place", ["{url}/elsewhere", "http://169.254.169.254/"])
def test_a_websocket_is_not_sent_on_either(remote, server, place):
    asked = []

    async def elsewhere(request):
        asked.append(request.path)
        return web.Response()

    server.lies = {"/ws": sent_on(place.format(url=server.url)), "/elsewhere": elsewhere}
    code, out, err = remote("-q")
    assert code == 1 and out == "" and err.startswith("error: the server sends us on from /ws to 'http://")
    assert not asked and not server.prompts


def test_a_websocket_that_never_begins_is_not_waited_for(remote, server, monkeypatch):
    async def silence(request):
        await asyncio.sleep(3.0)
        return web.Response()

    monkeypatch.setattr(comfyui_server, "_CONNECT", 0.5)
    server.lies = {"/ws": silence}
    code, _, err = remote("-q")
    assert code == 1 and err == "error: its answer to /ws does not come, or has no end\n"


def test_a_queue_of_others_that_is_too_long_to_read_costs_nothing(remote, server, tmp_path, monkeypatch):
    monkeypatch.setattr(comfyui_server, "_MAX_JSON", 1 << 14)
    monkeypatch.setattr(comfyui_server, "_POLL", 0.05)
    server.lies = {"/queue": json.dumps({"queue_running": [], "queue_pending": [[1, "x" * 20_000, {}, {}, []]]})}
    server.pause = 0.3
    assert remote("-q")[0] == 0
    assert shade(tmp_path / "out" / "pic_00001_.png") == 3


@pytest.mark.parametrize("path", ["/object_info", "/prompt", "/history", "/view"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_is_no_honest_http_is_told_in_a_line(remote, server, tmp_path, monkeypatch, answer, path):
    for name, value in {
        "_MAX_JSON": 1 << 20,
        "_MAX_FILE": 1 << 20,
        "_SILENCE": 1.0,
        "_LONG": 3.0,
        "_MAX_AWAY": 2.0,
    }.items():
        monkeypatch.setattr(comfyui_server, name, value)
    body, said = ANSWERS[answer]
    server.lies = {path: body}
    code, out, err = remote("-q")
    assert code in (1, 2) and out == "" and "Traceback" not in err
    (line,) = err.splitlines()
    assert line.startswith("error: ") and said in line, line
    assert not [found for found in (tmp_path / "out").rglob("*") if found.is_file()]


def test_pictures_that_lie_here_are_sent(remote, server, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "here.png").write_bytes(b"pixels")
    load = {"class_type": "LoadImage", "inputs": {"image": "here.png"}}
    assert remote("-i", tmp_path / "in", graph=GRAPH | {"3": load})[0] == 0
    assert server.uploads == [("here.png", b"pixels")]
    assert server.prompts[0]["prompt"]["3"]["inputs"]["image"] == "sent_here.png"


def test_pictures_are_sent_to_nodes_of_the_newer_form_too(remote, server, tmp_path):
    """Their list is among the options, beside the word COMBO."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "here.png").write_bytes(b"pixels")
    load = {"class_type": "LoadChannel", "inputs": {"image": "here.png", "channel": "red"}}
    save = {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "x"}}
    graph = GRAPH | {"3": load, "4": save}
    code, _, err = remote("-i", tmp_path / "in", graph=graph)
    assert code == 0, err
    assert server.uploads == [("here.png", b"pixels")]
    assert server.prompts[0]["prompt"]["3"]["inputs"] == {"image": "sent_here.png", "channel": "red"}
    load["inputs"]["image"] = "nowhere.png"
    code, _, err = remote("-i", tmp_path / "in", graph=graph)
    assert code == 2 and "nowhere.png" in err


def test_ctrl_c_takes_the_row_back(remote, server):
    server.hang = True

    def interrupt():
        while not server.prompts:
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    code, _, err = remote("-q")
    assert code == 130 and "interrupted" in err
    assert sorted(path for path, _ in server.interrupted) == ["/interrupt", "/queue"]


def test_no_server_is_said_before_anything(tmp_path, capsys):
    file = tmp_path / "graph.json"
    file.write_text(json.dumps(GRAPH))
    assert run(["run", str(file), "--server", "http://127.0.0.1:9", "-o", str(tmp_path / "out")]) == 2
    assert "no ComfyUI answers there" in capsys.readouterr().err
