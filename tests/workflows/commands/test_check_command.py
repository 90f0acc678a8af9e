"""`unclip check`: lines, JSON, the picture, and the exit codes."""

import json
import shutil

import pytest
from PIL import Image

from comfyui_unclip.tests.stage_file import load_stage
from comfyui_unclip.unclip_core.checkpoints.catalog import EMBEDDED
from comfyui_unclip.unclip_core.checkpoints.native import save_stage
from comfyui_unclip.workflows.cli import run


@pytest.fixture
def unclip(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("UNCLIP_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))

    def call(*arguments):
        code = run(["check", "--threads", "1", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def test_storybook_passes_and_shows_a_picture(unclip, tmp_path):
    code, out, err = unclip("storybook", "-o", tmp_path / "new" / "picture.png")
    lines = out.splitlines()
    assert code == 0 and not err and "FAILED" not in out
    assert lines[-1].startswith("storybook: all ") and lines[-1].endswith("checks passed")
    assert any("drawings painted again find themselves: 1 " in line for line in lines)
    assert Image.open(tmp_path / "new" / "picture.png").size == (256, 256)
    assert not any("norm scales" in line for line in lines)


def test_a_failure_is_exit_code_1_with_its_place_and_meaning(unclip, tmp_path):
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    shutil.copy(EMBEDDED / "storybook" / "clip.safetensors", folder)
    stage, config, state = load_stage(EMBEDDED / "storybook" / "prior.safetensors")
    name = "blocks.3.proj.weight"
    save_stage(folder / "prior.safetensors", {**state, name: state[name].t().contiguous()}, stage, config)
    code, out, _ = unclip("mine", "--no-pictures")
    assert code == 1
    (failed,) = (line for line in out.splitlines() if line.startswith("FAILED"))
    assert failed.startswith(f"FAILED  prior          prior: matrices the right way round: {name} -")
    assert "stored transposed, or read so from this layout" in out and "`unclip check mine --json`" in out.replace(
        "\n", ""
    )
    code, out, _ = unclip("mine", "--no-pictures", "--json")
    report = json.loads(out)
    assert code == 1 and report["ok"] is False and report["layout"] == "native"
    assert [finding["check"] for finding in report["findings"] if finding["status"] == "failed"] == [
        "prior: matrices the right way round"
    ]
    assert any(finding["check"] == "prior: norm scales" for finding in report["findings"])


def test_what_cannot_be_checked_is_exit_code_2(unclip, tmp_path):
    code, _, err = unclip("nothing")
    assert code == 2 and "no model 'nothing'" in err
    code, _, err = unclip("storybook", "--no-pictures", "-o", tmp_path / "picture.png")
    assert code == 2 and "--no-pictures leaves it out" in err
    code, _, err = unclip("storybook", "--dtype", "int3")
    assert code == 2 and "int3" in err
