"""Numbered file names: never one that exists, also when two processes save at the same moment."""

import subprocess
import sys

import pytest
import torch
from PIL import Image

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS, files
from comfyui_unclip.nodes.builtin import BUILTIN_CLASS_MAPPINGS as NODES
from comfyui_unclip.nodes.host import LocalHost, use_host
from comfyui_unclip.unclip_core.types import Embedding
from comfyui_unclip.workflows.checks.validation import validate
from comfyui_unclip.workflows.places.received_files import save_file

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

        monkeypatch.setattr(files.os, "link", refuse)
    (tmp_path / "x_00003_.png").write_bytes(b"kept")
    with files.temporary_file(tmp_path, "x") as temporary:
        temporary.write_bytes(b"new")
        assert files.move_to_free_number(temporary, tmp_path, "x", 3) == tmp_path / "x_00004_.png"
    assert (tmp_path / "x_00003_.png").read_bytes() == b"kept" and (tmp_path / "x_00004_.png").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_vanished_is_an_error_not_a_loop(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.move_to_free_number(tmp_path / "gone" / ".x.part", tmp_path / "gone", "x", 1)


def test_a_file_tag_follows_the_prefix(tmp_path):
    host = LocalHost(tmp_path)
    host.file_tag = "_row00007"
    with use_host(host):
        (entry,) = NODES["SaveImage"]().save_images(images=torch.zeros(1, 4, 4, 3), filename_prefix="a/x")["ui"][
            "images"
        ]
    assert (entry["subfolder"], entry["filename"]) == ("a", "x_row00007_00001_.png")


FRAMES = torch.zeros(2, 4, 4, 3)
SAVERS = {
    "SaveImage": {"images": FRAMES},
    "UnCLIPSaveAnimation": {"images": FRAMES, "fps": 4.0, "format": "gif", "back_and_forth": False},
    "UnCLIPSaveEmbedding": {"embed": Embedding(torch.ones(1, 4), "ViT-L-14/openai")},
}
NO_NAMES = ["", ".", "./", "x/..", "%width%/..", "a/b/../..", "..", "x/../../y", "/"]


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("prefix", NO_NAMES)
def test_a_prefix_that_names_no_file_below_the_folder_is_refused_before_and_at_the_save(tmp_path, saver, prefix):
    classes = {**NODES, **NODE_CLASS_MAPPINGS}
    inputs = {name: value for name, value in SAVERS[saver].items() if not isinstance(value, torch.Tensor | Embedding)}
    prompt = {"1": {"class_type": saver, "inputs": {**inputs, "filename_prefix": prefix}}}
    with use_host(LocalHost(tmp_path / "out")):
        problems = validate(prompt, classes).problems(classes)
        found = [problem for problem in problems if problem.input == "filename_prefix"]
        assert len(found) == 1 and repr(prefix) in found[0].message
        node = classes[saver]
        with pytest.raises(ValueError, match=r"leads out of|names no file"):
            getattr(node(), node.FUNCTION)(**SAVERS[saver], filename_prefix=prefix)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("prefix", "stem"), [("x/", "x"), ("./x", "x"), ("a/../x", "x"), ("a/./x", "a/x"), (" ", " ")])
def test_what_the_editor_takes_for_a_name_is_one(tmp_path, prefix, stem):
    """Where ComfyUI 0.3.64 puts the same prefixes."""
    with use_host(LocalHost(tmp_path)):
        assert NODES["SaveImage"].VALIDATE_INPUTS(prefix) is True
        NODES["SaveImage"]().save_images(images=FRAMES[:1], filename_prefix=prefix)
    assert (tmp_path / f"{stem}_00001_.png").is_file()


@pytest.mark.parametrize("saver", SAVERS)
def test_a_prefix_that_another_node_makes_is_checked_when_it_is_known(tmp_path, saver):
    """The editor asks with None, or not at all, for what is linked."""
    node = {**NODES, **NODE_CLASS_MAPPINGS}[saver]
    with use_host(LocalHost(tmp_path)):
        assert node.VALIDATE_INPUTS() is True and node.VALIDATE_INPUTS(filename_prefix=None) is True


@pytest.mark.parametrize(("subfolder", "name"), [("", ""), ("", "."), ("x", ".."), ("", ".."), ("x", "../../y.png")])
def test_a_file_from_a_server_stays_below_the_folder(tmp_path, subfolder, name):
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"leads out of|names no file"):
        save_file(tmp_path / "out", subfolder, name, b"data")
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]
