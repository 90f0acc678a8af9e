"""Hostile requests to `unclip edit`, with a token and without: none may be let in, answered by 500, or left hanging.

    python tests/campaigns/server.py --count 20000 --seed 1

Starts the editor as a process in a folder of its own, sends `count` requests in each mode over raw sockets (what a
browser would never send, too), and looks afterwards at what lies around its folders. A finding is printed with the
number of its request; `--only NUMBER` sends that one again, and prints the answer. Exit code 1 for any finding.

What is late beside others, on a busy machine, is sent again alone when the queue is empty, and then counts by the
processor time that the editor uses for it. How long its event loop, on which every answer waits, was held at the
longest is printed likewise, in processor time and by the clock.

Not run by CI, which sends a share of it: tests/workflows/server/test_hostile_requests.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 5.0  # seconds for an answer
AT_ONCE = 8  # connections
ALONE = 60.0  # seconds for an answer when nothing else is asked
SLOWEST = 20  # requests that are sent again alone beside the late ones
# The editor, which says at its end how long its loop was held: [processor time, clock], seconds, of the longest two.
PROGRAM = """
import asyncio.events, atexit, json, time
run, held = asyncio.events.Handle._run, [(0.0, 0.0), (0.0, 0.0)]
def measured(handle):
    used, clock = time.thread_time(), time.perf_counter()
    run(handle)
    now = time.thread_time() - used, time.perf_counter() - clock
    held[:] = max(held[0], now), max(held[1], now, key=lambda pair: pair[1])
asyncio.events.Handle._run = measured
atexit.register(lambda: print(json.dumps(held), flush=True))
from comfyui_unclip.workflows.cli import main
main()
"""
TOKEN = "kasdjfhaskdjfh3487sdkfh"
PICTURE = bytes.fromhex(  # 1 x 1 PNG
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060000000040001f61738"
    "550000000049454e44ae426082"
)
PROMPT = {
    "1": {"class_type": "UnCLIPExamplePicture", "inputs": {"name": "red apple in the snow"}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "look"}},
}
DEEP = 3000


@dataclass
class Sent:
    """One request. stranger: it must not be let in."""

    method: str
    path: str
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    stranger: bool = False

    def raw(self) -> bytes:
        """As it goes over the wire."""
        lines = [f"{self.method} {self.path} HTTP/1.1".encode("utf-8", "surrogatepass")]
        lines += [name + b": " + value for name, value in self.headers]
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body


# --- What is sent ----------------------------------------------------------------------------------------------------


class Values:
    """Values that are not what was asked for, drawn by `rng`."""

    def __init__(self, rng: random.Random):
        self.rng = rng

    def text(self) -> str:
        """A name or an id."""
        rng = self.rng
        return rng.choice(
            [
                "",
                "a" * rng.choice([255, 256, 1025, 5000]),
                "日" * rng.choice([80, 90, 400]),
                "/".join("a" * rng.choice([1, 2]) for _ in range(rng.choice([63, 65, 2000]))),
                "../" * rng.randint(1, 12) + "secret.txt",
                "..\\..\\secret.txt",
                "/etc/passwd",
                "//127.0.0.1/share/x",
                "C:\\Windows\\win.ini",
                "C:x",
                "a:b",
                "CON",
                "nul.json",
                "x.",
                " ",
                ".",
                "..",
                "\x00",
                "a\x00.png",
                "\x1b[2J\x1b]0;x\x07",
                "a\nb",
                "\udcff",
                "\ud800",
                "\u202egnp.exe",
                "workflows",
                "workflows/kept.json",
                "comfy.settings.json",
                "kept.png",
                "page.html",
                "kept.png [output]",
                "%2e%2e%2f",
                "${HOME}",
                "-rf",
                "1",
                "None",
            ]
        )

    def number(self) -> Any:
        """A number, or what is taken for one."""
        found = [0, -1, 1.5, 10**18, 10**400, -(10**400), 2**64, 1e308, float("nan"), float("inf"), True, "7", "0x10"]
        return self.rng.choice(found)

    def nested(self) -> Any:
        """Lists and tables inside each other."""
        value: Any = self.rng.choice([1, "x", None])
        shape = self.rng.choice([lambda inner: [inner], lambda inner: {"a": inner}])
        for _ in range(self.rng.choice([3, 98, 99, 101, 500])):
            value = shape(value)
        return value

    def any(self) -> Any:
        """Anything that JSON holds, and NaN."""
        pick = self.rng.random()
        if pick < 0.35:
            return self.text()
        if pick < 0.6:
            return self.number()
        if pick < 0.75:
            return self.nested()
        return self.rng.choice([None, [], {}, [[]], {"": ""}, [None], ["1", 0], {"__type__": 1}, "x" * 100_000])

    def mutated(self, value: Any, strength: int = 2) -> Any:
        """`value` with some of what lies in it changed, taken away or added."""
        value = json.loads(json.dumps(value))
        for _ in range(self.rng.randint(1, strength)):
            places = list(_places(value))
            if not places:
                return self.any()
            holder, key = self.rng.choice(places)
            pick = self.rng.random()
            if pick < 0.6:
                holder[key] = self.any()
            elif pick < 0.8:
                del holder[key]
            elif isinstance(holder, dict):
                holder[self.text()] = self.any()
            else:
                holder.append(self.any())
        return value


def _places(value: Any) -> Any:
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b"[" * DEEP + b"]" * DEEP


def _quoted(text: str) -> str:
    """As a browser would write it into an address."""
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


class Requests:
    """Request number n of a seed is always the same."""

    def __init__(self, seed: int, host: str, token: str | None):
        self.seed, self.host, self.token = seed, host, token

    def __getitem__(self, number: int) -> Sent:
        rng = random.Random(f"{self.seed} {number}")
        values = Values(rng)
        sent = rng.choice(_KINDS)(values)
        if rng.random() < 0.5:
            sent.path = f"/api{sent.path}"
        self._dress(rng, values, sent)
        return sent

    def _dress(self, rng: random.Random, values: Values, sent: Sent) -> None:
        """Headers: a guest's own, a stranger's, or spoilt ones."""
        host, headers = self.host.encode(), list(sent.headers)
        pick = rng.random()
        if pick < 0.15:
            sent.stranger = True
            other = rng.choice(
                [b"evil.example", b"evil.example:80", b"127.0.0.1.evil.example", b"\xff", b"", b"[::", b"a@b"]
            )
            headers.insert(0, (b"Host", other))
        elif pick < 0.3:
            sent.stranger = True
            headers.insert(0, (b"Host", host))
            origin = rng.choice(
                [b"https://evil.example", b"null", b"http://localhost.evil.example", b"\xff", b"file://"]
            )
            site = rng.choice([b"cross-site", b"same-site", b"\xff"])
            headers.append((b"Origin", origin) if rng.random() < 0.6 else (b"Sec-Fetch-Site", site))
        else:
            headers.insert(0, (b"Host", host))
        if self.token is not None:
            given = rng.choice(
                [None, b"", b"Bearer", b"Bearer \xff", b"Bearer x", b"Basic eDp5", b"Bearer " + b"a" * 8000]
            )
            right = rng.random() < 0.5 and not sent.stranger
            sent.stranger = not right
            if right:
                headers.append((b"Authorization", f"Bearer {self.token}".encode()))
            elif given is not None:
                headers.append((b"Authorization", given))
            if rng.random() < 0.2:
                port = self.host.rpartition(":")[2]
                headers.append(
                    (b"Cookie", rng.choice([f"unclip_{port}=x".encode(), b"\xff=\xff", b"a" * 5000, b"=;,;"]))
                )
        if rng.random() < 0.15:
            kind = rng.choice(
                [b"application/json; charset=klingon", b"application/json; charset=utf-16", b"\xff", b"text/html"]
            )
            headers = [pair for pair in headers if pair[0] != b"Content-Type"] + [(b"Content-Type", kind)]
        if rng.random() < 0.1:
            coding = rng.choice([b"gzip", b"deflate", b"br", b"zstd", b"klingon", b"gzip, gzip"])
            if coding == b"gzip" and rng.random() < 0.5:
                sent.body = gzip.compress(sent.body)
            headers.append((b"Content-Encoding", coding))
        if rng.random() < 0.05:
            extra = rng.choice(
                [
                    (b"Range", b"bytes=9-1,-5"),
                    (b"If-Modified-Since", b"\xff"),
                    (b"Expect", b"200-maybe"),
                    (b"X-" + b"a" * 50, b"b" * 9000),
                    (b"Upgrade", b"websocket"),
                    (b"Accept-Encoding", b"\xff"),
                ]
            )
            headers.append(extra)
        if rng.random() < 0.03:
            headers.append((b"Transfer-Encoding", b"chunked"))
            sent.body = rng.choice([b"zz\r\n", b"5\r\nabcde\r\n0\r\n\r\n", b"-1\r\n\r\n"])
        else:
            headers.append((b"Content-Length", str(len(sent.body)).encode()))
        headers.append((b"Connection", b"close"))
        sent.headers = headers


def _queue(values: Values) -> Sent:
    whole = {"prompt": PROMPT, "client_id": "c", "extra_data": {"extra_pnginfo": {"workflow": {"id": "w"}}}}
    more = {"number": 1, "prompt_id": "p", "front": False, "partial_execution_targets": ["2"]}
    body = whole | {key: more[key] for key in more if values.rng.random() < 0.3}
    body = values.mutated(body, 3)
    return _post("/prompt", _json(body))


def _others(values: Values) -> Sent:
    address, body = values.rng.choice(
        [
            ("/queue", {"clear": False, "delete": ["a"]}),
            ("/history", {"clear": False, "delete": ["a"]}),
            ("/jobs/cancel", {"job_ids": ["a"]}),
            ("/interrupt", {"prompt_id": "a"}),
            ("/free", {"unload_models": True}),
            ("/settings", {"Comfy.Locale": "zh", "x": [1, {"y": 2}]}),
        ]
    )
    return _post(address, _json(values.mutated(body)))


def _setting(values: Values) -> Sent:
    return _post(f"/settings/{_quoted(values.text()[:2000])}", _json(values.any()))


def _bytes(values: Values) -> Sent:
    """A body that is no JSON at all, or hardly."""
    rng = values.rng
    body = rng.choice(
        [rng.randbytes(rng.randint(0, 200)), b"[" * DEEP, b'{"a":' * DEEP, b'"\\ud800"', b"\xff\xfe{\x00}\x00"]
    )
    return _post(rng.choice(["/prompt", "/settings", "/queue", "/settings/x", "/userdata/a.json"]), body)


def _ask(values: Values) -> Sent:
    name = _quoted(values.text())
    query = "&".join(
        f"{key}={_quoted(str(values.text() if values.rng.random() < 0.6 else values.number())[:2000])}"
        for key in values.rng.sample(
            (
                *("filename", "subfolder", "type", "preview", "channel", "dir", "recurse", "split", "full_info"),
                *("limit", "offset", "max_items", "status", "clientId", "overwrite"),
            ),
            3,
        )
    )
    address = values.rng.choice(
        [
            *("/view", "/userdata", "/jobs", "/history", "/queue", "/ws", "/models/unclip", "/system_stats"),
            *(f"/{kind}/{name}" for kind in ("userdata", "history", "jobs", "object_info", "models", "settings")),
            f"/internal/files/{name}",
            f"/extensions/comfyui-unclip/{name}",
            f"/workflow_templates/comfyui-unclip/{name}",
            f"/global_subgraphs/{name}",
            f"/assets/{name}",
            f"/{name}",
        ]
    )
    method = values.rng.choice(["GET", "GET", "GET", "HEAD", "DELETE", "PUT", "OPTIONS"])
    return Sent(method, f"{address}?{query}")


def _file(values: Values) -> Sent:
    name, other = _quoted(values.text()), _quoted(values.text())
    method, address = values.rng.choice(
        [("POST", f"/userdata/{name}"), ("DELETE", f"/userdata/{name}"), ("POST", f"/userdata/{name}/move/{other}")]
    )
    return Sent(method, f"{address}?overwrite=true&full_info=true", [], b"{}")


def _upload(values: Values) -> Sent:
    rng, mask = values.rng, values.rng.random() < 0.4
    name = values.text().replace("\n", "").replace("\r", "")
    content = rng.choice([PICTURE, PICTURE[:40], b"<html><script>1</script>", b"", b"GIF89a", rng.randbytes(300)])
    parts = [("image", name if rng.random() < 0.6 else "kept.png", content)]
    parts += [
        (key, None, values.text().encode("utf-8", "surrogatepass"))
        for key in ("type", "subfolder")
        if rng.random() < 0.4
    ]
    if mask:
        wanted = {"filename": rng.choice(["kept.png", "page.html", values.text()]), "type": "input", "subfolder": ""}
        parts.append(("original_ref", None, _json(wanted if rng.random() < 0.6 else values.mutated(wanted))))
    body = b""
    for key, filename, data in parts:
        more = "" if filename is None else f'; filename="{filename}"'
        body += f'--B\r\nContent-Disposition: form-data; name="{key}"{more}\r\n'.encode("utf-8", "surrogatepass")
        if rng.random() < 0.1:
            body += rng.choice(
                [
                    b"Content-Transfer-Encoding: klingon\r\n",
                    b"Content-Type: text/plain; charset=klingon\r\n",
                    b"Content-Encoding: br\r\n",
                    b"Content-Length: -1\r\n",
                    b"no colon\r\n",
                ]
            )
        body += b"\r\n" + data + b"\r\n"
    body += b"--B--\r\n" if rng.random() < 0.9 else b""
    kind = (
        b"multipart/form-data; boundary=B"
        if rng.random() < 0.9
        else rng.choice([b"multipart/form-data", b"multipart/x"])
    )
    return Sent("POST", f"/upload/{'mask' if mask else 'image'}", [(b"Content-Type", kind)], body)


def _post(path: str, body: bytes) -> Sent:
    return Sent("POST", path, [(b"Content-Type", b"application/json")], body)


_KINDS: list[Callable[[Values], Sent]] = [_queue, _queue, _others, _setting, _bytes, _ask, _ask, _file, _upload]


# --- Sending ---------------------------------------------------------------------------------------------------------


async def answer_to(host: str, sent: Sent, patience: float | None = None) -> tuple[int, bytes]:
    """(status, the answer). Status 0: the connection was closed without one, as for what is no HTTP; -1: no answer in
    time."""
    name, _, port = host.rpartition(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    try:
        writer.write(sent.raw())
        data = await asyncio.wait_for(_until_known(reader), patience or PATIENCE)
    except (ConnectionError, asyncio.IncompleteReadError):
        return 0, b""
    except asyncio.TimeoutError:
        return -1, b""
    finally:
        writer.close()
    found = re.match(rb"HTTP/1\.[01] (\d{3})", data)
    return (int(found[1]) if found else 0), data


async def _until_known(reader: asyncio.StreamReader) -> bytes:
    """The answer's beginning: a websocket's stays open."""
    data = b""
    while b"\r\n\r\n" not in data or (not data.startswith(b"HTTP/1.1 101") and len(data) < 4000):
        block = await reader.read(4000)
        if not block:
            break
        data += block
    return data


def finding(sent: Sent, status: int) -> str | None:
    """What is wrong with an answer, or None."""
    if status == -1:
        return "no answer"
    if status >= 500 and status not in (501, 503, 507):
        return f"status {status}"
    if sent.stranger and (status < 300 and status not in (0,)):
        return f"a stranger was let in with {status}"
    return None


@dataclass
class Outcome:
    """What became of the requests. past: how many the parser of HTTP took. slow: (seconds by the clock, number) of the
    slowest. late: the numbers of those without an answer in time. alone: the most processor time for one of these."""

    statuses: Counter = field(default_factory=Counter)
    past: int = 0
    slow: list[tuple[float, int]] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    alone: float = 0.0
    found: list[str] = field(default_factory=list)

    def add(self, number: int, sent: Sent, status: int, answer: bytes, used: float = 0.0) -> None:
        """Take one answer in, for which the editor used so much processor time."""
        self.statuses[status] += 1
        self.past += not answer.startswith(b"HTTP/1.0 400")  # as aiohttp says of what is no HTTP
        wrong = finding(sent, status) or (f"took {used:.1f} s of processor time" if used > PATIENCE else None)
        if wrong:
            self.found.append(f"request {number}: {sent.method} {ascii(sent.path)[:80]}: {wrong}")


async def send_all(requests: Requests, numbers: list[int], process: int | None = None) -> Outcome:
    """Send them, AT_ONCE at a time; then the late and the slowest again, alone. process: the editor's number."""
    outcome = Outcome()
    waiting, begun = iter(numbers), time.monotonic()

    async def work() -> None:
        for number in waiting:
            sent, start = requests[number], time.monotonic()
            status, answer = await answer_to(requests.host, sent)
            outcome.slow = sorted([*outcome.slow, (time.monotonic() - start, number)], reverse=True)[:SLOWEST]
            if status == -1:
                outcome.late.append(number)
            else:
                outcome.add(number, sent, status, answer)
            if number and number % 1000 == 0:
                print(f"  {number} sent after {time.monotonic() - begun:.0f} s", flush=True)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    await _until_idle(requests)
    for number in dict.fromkeys([*outcome.late, *(number for _, number in outcome.slow)]):
        sent, used = requests[number], _processor_seconds(process)
        status, answer = await answer_to(requests.host, sent, ALONE)
        used = _processor_seconds(process) - used
        outcome.alone = max(outcome.alone, used)
        if number in outcome.late:
            outcome.add(number, sent, status, answer, used)
    return outcome


async def _until_idle(requests: Requests) -> None:
    """Empty the editor's queue, and wait for the end of what runs."""
    headers = [(b"Host", requests.host.encode()), (b"Connection", b"close")]
    if requests.token is not None:
        headers.append((b"Authorization", f"Bearer {requests.token}".encode()))
    body = b'{"clear": true}'
    clear = Sent("POST", "/queue", [*headers, (b"Content-Length", str(len(body)).encode())], body)
    await answer_to(requests.host, clear, ALONE)
    for _ in range(int(ALONE)):
        _, answer = await answer_to(requests.host, Sent("GET", "/prompt", headers), ALONE)
        if b'"queue_remaining": 0' in answer:
            return
        await asyncio.sleep(1.0)


def _processor_seconds(process: int | None) -> float:
    """What a process has used; 0 where it cannot be asked."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def furnish(folder: Path) -> set[str]:
    """Files that requests refer to, in the editor's folders and beside them. Returns what lies outside of these."""
    for name in ("input", "out", "user/workflows"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "input" / "kept.png").write_bytes(PICTURE)
    (folder / "input" / "page.html").write_text("<html>")
    (folder / "user" / "workflows" / "kept.json").write_text("{}")
    (folder / "secret.txt").write_text("nobody's business")
    return outside(folder)


def outside(folder: Path) -> set[str]:
    """What lies in `folder` outside of the editor's own folders, with its content."""
    own = ("input", "out", "user", "temporary", "log")
    paths = [path for path in folder.rglob("*") if path.relative_to(folder).parts[0] not in own]
    return {f"{path} {path.read_bytes() if path.is_file() else ''}" for path in paths}


@contextlib.contextmanager
def served(folder: Path, token: str | None = None) -> Iterator[tuple[str, subprocess.Popen]]:
    """`unclip edit` in `folder`; yields its host with the port, and the process. Prints at the end how long its loop
    was held."""
    command = [sys.executable, "-c", PROGRAM, "edit", "--no-browser", "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder / "temporary")}
    if token is not None:
        environment["UNCLIP_EDIT_TOKEN"] = token
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            yield re.search(r"http://([^/]+)/", server.stdout.readline())[1], server
        finally:
            server.terminate()
            said, _ = server.communicate(timeout=10 * ALONE)
            last = said.rstrip().rpartition("\n")[2]
            if last.startswith("[["):  # one that crashed could not say it
                (most, _), (used, clock) = json.loads(last)
                held = f"{most:.3f} s of processor time at most, by the clock {clock:.3f} ({used:.3f})"
                print(f"  its loop was held {held}")


def load(sockets: int, nodes: int) -> int:
    """A graph of many quick nodes runs while many pages are open, some of them deaf. Prints how long others wait."""
    with tempfile.TemporaryDirectory(prefix="unclip-campaign-") as place:
        folder = Path(place)
        furnish(folder)
        (folder / "temporary").mkdir()
        with served(folder) as (host, _):
            waits, took = asyncio.run(_under_load(host, sockets, nodes))
    waits.sort()
    middle, worst = waits[len(waits) // 2], waits[-1]
    print(f"{sockets} sockets, {nodes} nodes in {took:.1f} s")
    print(f"  {len(waits)} other answers: median {middle:.3f} s, worst {worst:.3f} s")
    return 1 if worst >= 0.5 else 0


async def _under_load(host: str, sockets: int, nodes: int) -> tuple[list[float], float]:
    import aiohttp

    prompt: dict[str, Any] = {"0": {"class_type": "PrimitiveInt", "inputs": {"value": 1}}}
    for number in range(1, nodes - 1):
        prompt[str(number)] = {"class_type": "PrimitiveInt", "inputs": {"value": [str(number - 1), 0]}}
    prompt["last"] = {"class_type": "PreviewAny", "inputs": {"source": [str(nodes - 2), 0]}}
    waits: list[float] = []
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(f"http://{host}", connector=connector) as http:
        # A few hear the run, the others wait. What nobody reads here fills up.
        names = ["run" if number % 128 == 0 else str(number) for number in range(sockets)]
        pages = [await http.ws_connect(f"/ws?clientId={name}") for name in names]
        start = time.monotonic()
        async with http.post("/prompt", json={"prompt": prompt, "client_id": "run"}) as answer:
            job = (await answer.json())["prompt_id"]
        while True:
            began = time.monotonic()
            async with http.get("/features") as answer:
                await answer.read()
            waits.append(time.monotonic() - began)
            async with http.get("/jobs?status=completed,failed,cancelled") as answer:
                if any(ended["id"] == job for ended in (await answer.json())["jobs"]):
                    break
            await asyncio.sleep(0.05)
        took = time.monotonic() - start
        for page in pages:
            page._response.close()  # without the pages' goodbyes
    return waits, took


def campaign(count: int, seed: int, token: str | None, only: int | None) -> int:
    """One mode against a process of its own. Returns the number of findings."""
    with tempfile.TemporaryDirectory(prefix="unclip-campaign-") as place:
        folder = Path(place)
        before = furnish(folder)
        (folder / "temporary").mkdir()
        with served(folder, token) as (host, server):
            requests = Requests(seed, host, token)
            if only is not None:
                print(ascii(requests[only])[:2000])
                print(asyncio.run(answer_to(host, requests[only])))
            start = time.monotonic()
            outcome = asyncio.run(send_all(requests, list(range(count)) if only is None else [], server.pid))
            found = outcome.found
            took = time.monotonic() - start
            if server.poll() is not None:
                found.append(f"the editor ended with {server.returncode}")
        if (now := outside(folder)) != before:
            found.append(f"outside of its folders: {sorted(now ^ before)}")
        if left := list((folder / "temporary").iterdir()):
            found.append(f"temporary files are left: {left}")
        log_text = (folder / "log").read_text(errors="replace")
        if "Traceback" in log_text:
            place = log_text.index("Traceback")
            found.append(f"{log_text.count('Traceback')} tracebacks in its log, the first: {log_text[place:][:2500]}")
    mode = "with a token" if token else "without a token"
    print(f"{mode}: {count} requests in {took:.0f} s, statuses {dict(sorted(outcome.statuses.items()))}")
    print(f"  {outcome.past} past the first parser; {len(outcome.late)} late beside others")
    print(f"  these and the slowest alone: at most {outcome.alone:.2f} s of processor time", flush=True)
    print(f"  {len(found)} findings", flush=True)
    for line in found[:50]:
        print(f"  {line}")
    return len(found)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000, help="requests in each mode")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", choices=("both", "token", "open"), default="both")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="send this request alone and print its answer")
    parser.add_argument("--load", action="store_true", help="instead: 1,000 sockets beside a run of 5,000 nodes")
    options = parser.parse_args()
    if options.load:
        return load(1000, 5000)
    modes = {"open": [None], "token": [TOKEN], "both": [None, TOKEN]}[options.mode]
    return 1 if sum(campaign(options.count, options.seed, token, options.only) for token in modes) else 0


if __name__ == "__main__":
    sys.exit(main())
