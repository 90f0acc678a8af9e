"""`unclip edit` as a process: its address, `unclip run --server` against it, its end, and its refusals."""

import importlib.util
import os
import re
import signal
import subprocess
import sys

import pytest

from comfyui_unclip.workflows.cli import run
from comfyui_unclip.workflows.server.app import Settings, frontend_folder, make_editor

EDIT = [sys.executable, "-m", "comfyui_unclip.workflows.cli", "edit", "--no-browser"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_leaves_no_temporary_folder_and_the_next_start_removes_a_killed_ones(tmp_path, number):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)}
    for ending in (signal.SIGKILL, number):
        server = subprocess.Popen(
            [*EDIT, "--port", "0"], env=environment, stdout=subprocess.PIPE, cwd=tmp_path,
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # under nohup the tests themselves ignore SIGHUP
        )  # fmt: skip
        assert b"nodes of this pack alone" in server.stdout.readline()
        (left,) = temporary.glob(".unclip-*")  # its own alone
        assert f"-{server.pid}-" in left.name
        server.send_signal(ending)
        server.communicate(timeout=120)
        assert left.exists() == (ending == signal.SIGKILL)
    assert server.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a POSIX signal")
def test_it_serves_a_headless_run_and_ends_at_ctrl_c(tiny_stack, tmp_path, repository, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen([*EDIT, "--port", "0"], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        told = server.stdout.readline()
        assert "nodes of this pack alone" in told
        address = re.search(r"http://127\.0\.0\.1:\d+/", told)[0]
        graph = repository / "workflows" / "text_to_image.json"
        words = ["-s", "model.model_name=tiny", "-s", "prompt=a red star", "-o", "fetched"]
        assert run(["run", str(graph), *words, "--server", address]) == 0
        (fetched,), (made,) = (tmp_path / "fetched").glob("*.png"), (tmp_path / "out").glob("*.png")
        assert fetched.read_bytes() == made.read_bytes()

        assert run(["edit", "--no-browser", "--port", address.split(":")[-1].strip("/")]) == 2
        server.send_signal(signal.SIGINT)
        assert "the editor is closed" in server.communicate(timeout=120)[0] and server.returncode == 0
    finally:
        server.kill()


def test_others_are_let_in_with_a_token_alone(capsys):
    assert run(["edit", "--no-browser", "--listen", "0.0.0.0"]) == 2
    assert "--token" in capsys.readouterr().err


def test_a_folder_without_a_page_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["edit", "--no-browser", "--frontend", str(tmp_path)]) == 2
    assert "index.html" in capsys.readouterr().err


def test_without_the_extra_the_command_says_what_to_install(monkeypatch, capsys):
    found = importlib.util.find_spec
    absent = {"comfyui_frontend_package"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else found(name, *rest))
    with pytest.raises(ValueError, match=r"unclip\[editor\]"):
        frontend_folder()
    absent.add("aiohttp")
    assert run(["edit", "--no-browser"]) == 2
    assert "unclip[editor]" in capsys.readouterr().err


def test_nodes_of_another_pack_join(tmp_path, repository):
    editor = make_editor(
        Settings(tmp_path / "out", tmp_path / "in", tmp_path / "user", nodes=(repository / "tests/data/test_pack",))
    )
    assert len(editor.classes) > len(make_editor(Settings(user=tmp_path / "user")).classes)
    assert (tmp_path / "user" / "workflows").is_dir()
