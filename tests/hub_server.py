"""A small hub on 127.0.0.1 with Hugging Face's protocol: model info, resolve with hashes, ranges; it fails at will."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = 200  # bytes from which a file counts as a large one, known by its SHA-256


@dataclass
class Repository:
    """files: content by path. gated: the list is public, the files are not. cuts: by path, after how many bytes each of
    the next answers breaks off. stalls: by path, after how many bytes an answer falls silent. spoilt: paths of which
    other bytes come than the list says."""

    files: dict[str, bytes]
    card: dict = field(default_factory=dict)
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False
    cuts: dict[str, list[int]] = field(default_factory=dict)
    stalls: dict[str, int] = field(default_factory=dict)
    spoilt: set[str] = field(default_factory=set)
    ignores_ranges: bool = False
    lies: Callable[[dict], object] = dict  # changes what the hub says of the repository
    # By path ("" for the list of files): writes an answer of its own, given the handler and what the honest one holds.
    answers: dict[str, Callable[[BaseHTTPRequestHandler, bytes], None]] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        parts = (path.encode() + hashlib.sha1(data).digest() for path, data in sorted(self.files.items()))
        return hashlib.sha1(b"".join(parts)).hexdigest()

    def info(self, name: str) -> dict:
        siblings = []
        for path, data in self.files.items():
            entry = {"rfilename": path, "size": len(data), "blobId": _git_sha(data)}
            if len(data) >= LARGE:
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        said = {
            "id": name,
            "sha": self.commit,
            "siblings": siblings,
            "cardData": self.card,
            "tags": [],
            "private": False,
        }
        self.lies(said)
        return said


def folder_files(folder: Path) -> dict[str, bytes]:
    """A folder's files as a repository has them."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class HubServer:
    """requests: (method, path, Range header) of every request, in order."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.released = threading.Event()  # what stalls ends
        hub = self

        class Handler(_Handler):
            server_state = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fetched(self) -> list[tuple[str, str | None]]:
        """(path in its repository, Range header) of every file that was asked for."""
        found = []
        for method, path, span in self.requests:
            if method == "GET" and "/resolve/" in path:
                found.append((unquote(path.split("/resolve/")[1].split("/", 1)[1]), span))
        return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: HubServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *arguments) -> None:
        pass

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server_state.requests.append((self.command, path, self.headers.get("Range")))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?", path):
            repository = self._repository(match[1], match[2])
            if repository:
                said = json.dumps(repository.info(match[1])).encode()
                if "" in repository.answers:
                    repository.answers[""](self, said)
                else:
                    self._send(200, said, {"Content-Type": "application/json"})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repository = self._repository(match[1], match[2])
            if repository:
                self._send_file(repository, match[3], body)
        else:
            self._refuse(404, "EntryNotFound")

    def _repository(self, name: str, revision: str | None) -> Repository | None:
        repository = self.server_state.repositories.get(name)
        if repository is None:
            self._refuse(401, "RepoNotFound")  # as the hub answers those who are not logged in
        elif revision not in (None, repository.commit, *repository.revisions):
            self._refuse(404, "RevisionNotFound")
        else:
            return repository
        return None

    def _send_file(self, repository: Repository, path: str, body: bool) -> None:
        data = repository.files.get(path)
        if repository.gated:
            self._refuse(403, "GatedRepo")
            return
        if data is None:
            self._refuse(404, "EntryNotFound")
            return
        if path in repository.answers:
            repository.answers[path](self, data)
            return
        large = len(data) >= LARGE
        etag = hashlib.sha256(data).hexdigest() if large else _git_sha(data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        if large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        if path in repository.spoilt:
            data = bytes(byte ^ 1 for byte in data)
        status, span = 200, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if span and not repository.ignores_ranges:
            start = int(span[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            status, data = 206, data[start:]
        cuts = repository.cuts.get(path)
        if body and path in repository.stalls:
            self._send(status, data, headers, body, repository.stalls[path])
            self.server_state.released.wait(20)
        else:
            self._send(status, data, headers, body, cuts.pop(0) if body and cuts else None)

    def _send(self, status: int, data: bytes, headers: dict, body: bool = True, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "no"}, self.command == "GET")


def _git_sha(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
