"""Numbered file names: never one that exists, also when two processes save at the same moment."""

import subprocess
import sys

import pytest
import torch
from PIL import Image

from comfyui_unclip.nodes import files as paths
from comfyui_unclip.nodes.builtin import BUILTIN_CLASS_MAPPINGS as NODES
from comfyui_unclip.nodes.host import LocalHost, use_host

SAVE_MANY = """
import sys, pathlib
import torch
from comfyui_unclip.nodes.builtin import BUILTIN_CLASS_MAPPINGS as NODES
from comfyui_unclip.nodes.host import LocalHost, use_host
value, folder = float(sys.argv[1]), pathlib.Path(sys.argv[2])
(folder / f"ready{sys.argv[1]}").touch()
while len(list(folder.glob("ready*"))) < 2:
    pass
with use_host(LocalHost(folder)):
    for _ in range(30):
        NODES["SaveImage"]().save_images(images=torch.full((2, 4, 4, 3), value), filename_prefix="x")
"""


def test_two_processes_share_a_folder_without_overwriting(tmp_path):
    command = [sys.executable, "-c", SAVE_MANY]
    both = [subprocess.Popen([*command, value, str(tmp_path)]) for value in ("0.25", "0.75")]
    assert [process.wait(60) for process in both] == [0, 0]
    pictures = sorted(tmp_path.glob("*.png"))
    assert [picture.name for picture in pictures] == [f"x_{number:05}_.png" for number in range(1, 121)]
    shades = [Image.open(picture).getpixel((0, 0))[0] for picture in pictures]
    assert sorted(shades) == [63] * 60 + [191] * 60
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("links", [True, False])
def test_a_taken_name_is_passed_over(tmp_path, monkeypatch, links):
    if not links:

        def refuse(*names):
            raise PermissionError("no links on this file system")

        monkeypatch.setattr(paths.os, "link", refuse)
    (tmp_path / "x_00003_.png").write_bytes(b"kept")
    with paths.temporary_beside(tmp_path, "x") as temporary:
        temporary.write_bytes(b"new")
        assert paths.publish(temporary, tmp_path, "x", 3) == 4
    assert (tmp_path / "x_00003_.png").read_bytes() == b"kept" and (tmp_path / "x_00004_.png").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_vanished_is_an_error_not_a_loop(tmp_path):
    with pytest.raises(FileNotFoundError):
        paths.publish(tmp_path / "gone" / ".x.part", tmp_path / "gone", "x", 1)


def test_a_file_tag_follows_the_prefix(tmp_path):
    host = LocalHost(tmp_path)
    host.file_tag = "_row00007"
    with use_host(host):
        (entry,) = NODES["SaveImage"]().save_images(images=torch.zeros(1, 4, 4, 3), filename_prefix="a/x")["ui"][
            "images"
        ]
    assert (entry["subfolder"], entry["filename"]) == ("a", "x_row00007_00001_.png")
