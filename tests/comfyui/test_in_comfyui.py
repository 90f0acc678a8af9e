"""The pack in a real ComfyUI: it starts, knows the nodes, runs a graph, is cancelled, and lets go of what it holds.

    UNCLIP_COMFYUI=../ComfyUI .venv/bin/python -m pytest tests/comfyui

takes a checkout whose requirements are installed here, or for the interpreter $UNCLIP_COMFYUI_PYTHON. Its own folders
are left alone.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS
from comfyui_unclip.workflows.document.schema import node_schema

PATIENCE = 300.0  # seconds for a start or a run, on a machine with other work
QUICK = ("-s", "decoder.steps=3", "-s", "prior.steps=3", "-s", "upsample256.steps=2", "-s", "upsample1024.steps=2")


class ComfyUI:
    """A started server, asked over HTTP."""

    def __init__(self, address, repository):
        self.address, self._graph = address, repository / "workflows" / "text_to_image.json"

    def get(self, path):
        with urllib.request.urlopen(f"{self.address}/{path}", timeout=60) as answer:
            return json.load(answer)

    def post(self, path, **body):
        request = urllib.request.Request(f"{self.address}/{path}", json.dumps(body).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status

    def queue(self, output, *more):
        """`unclip run --server` as a process that tells its events."""
        command = [sys.executable, "-m", "comfyui_unclip.workflows.cli", "run", self._graph, "-o", output, "--json"]
        command = [*map(str, command), "--server", self.address, *QUICK, *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, output, *more):
        """The nodes that ran, and the picture."""
        process = self.queue(output, *more)
        told, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, said + told
        (row,) = (event for event in map(json.loads, told.splitlines()) if event["event"] == "row")
        (name,) = row["outputs"]
        return row["executed"], np.asarray(Image.open(output / name), dtype=np.float32)


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory, repository):
    """A server on processors, whose folders are new but for the pack."""
    base = tmp_path_factory.mktemp("comfyui")
    for name in ("custom_nodes", "input", "models", "output", "temp", "user"):
        (base / name).mkdir()
    (base / "custom_nodes" / "comfyui-unclip").symlink_to(repository, target_is_directory=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    python = os.environ.get("UNCLIP_COMFYUI_PYTHON", sys.executable)
    command = [python, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base)]
    command += ["--disable-auto-launch", "--database-url", "sqlite:///:memory:"]
    with open(base / "log", "w") as log:
        folder = Path(os.environ["UNCLIP_COMFYUI"]).expanduser()
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        started = ComfyUI(f"http://127.0.0.1:{port}", repository)
        end = time.monotonic() + PATIENCE
        while True:
            try:
                started.get("queue")
                break
            except (urllib.error.URLError, OSError):
                ended = server.poll() is not None or time.monotonic() > end
                assert not ended, f"ComfyUI did not start:\n{(base / 'log').read_text()[-4000:]}"
                time.sleep(0.5)
        yield started
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_it_has_every_node_with_every_input_and_the_web_extension(comfyui):
    known = comfyui.get("object_info")
    for name, node in NODE_CLASS_MAPPINGS.items():
        told = {field for kind in ("required", "optional") for field in known[name]["input"].get(kind, {})}
        assert told == set(node_schema(node).inputs), name
        assert known[name]["display_name"] == node.TITLE
    assert any(path.endswith("comfyui-unclip/js/faults.js") for path in comfyui.get("extensions"))


def test_a_graph_makes_the_picture_that_it_makes_without_comfyui(comfyui, tmp_path, repository):
    ran, picture = comfyui.run(tmp_path / "there")
    graph = repository / "workflows" / "text_to_image.json"
    command = [
        sys.executable,
        "-m",
        "comfyui_unclip.workflows.cli",
        "run",
        graph,
        "-o",
        tmp_path / "here",
        "-q",
        *QUICK,
    ]
    subprocess.run([*map(str, command)], check=True, timeout=PATIENCE)
    (here,) = (tmp_path / "here").glob("*.png")
    assert len(ran) == len(set(ran)) > 3 and picture.shape == (1024, 1024, 3)
    # As ComfyUI may use another PyTorch; with the same one no value differs.
    assert np.abs(picture - np.asarray(Image.open(here), dtype=np.float32)).mean() < 0.5


def test_cancel_stops_a_run_in_the_middle(comfyui, tmp_path):
    process = comfyui.queue(tmp_path, "-s", "decoder.steps=1000", "-s", "decoder.count=16")
    try:
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "progress" and event["max"] == 1000 and event["value"] > 1:
                break
        assert len(comfyui.get("queue")["queue_running"]) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    finally:
        process.kill()
        process.communicate()
    end = time.monotonic() + 60
    while comfyui.get("queue")["queue_running"]:
        assert time.monotonic() < end, "the run goes on"
        time.sleep(0.2)
    *_, last = comfyui.get("history").values()
    assert "execution_interrupted" in [kind for kind, _ in last["status"]["messages"]]
    assert not list(tmp_path.glob("*.png"))


def test_free_lets_go_of_models_and_results_and_the_next_run_is_the_same(comfyui, tmp_path):
    def run(name):
        return comfyui.run(tmp_path / name, "-s", "save.filename_prefix=" + name)

    _, first = run("first")
    ran_again, again = run("again")
    assert comfyui.post("free", unload_models=True, free_memory=True) == 200
    time.sleep(3)
    ran, after = run("after")
    assert len(ran_again) == 1 and len(ran) > 3  # of what is kept only the saver runs
    assert np.array_equal(first, again) and np.array_equal(first, after)
