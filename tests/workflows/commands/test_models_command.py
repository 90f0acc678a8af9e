"""`unclip models`: what is installed, broken entries with their reason; --verify reads everything."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from comfyui_unclip.nodes import host
from comfyui_unclip.unclip_core.checkpoints import catalog
from comfyui_unclip.workflows.cli import run
from comfyui_unclip.workflows.commands._tables import size_text

SHIPPED = Path(__file__).parents[3] / "workflows"


@pytest.fixture
def root(tiny_models, tmp_path, monkeypatch):
    """An otherwise empty search path with a sound and a broken model."""
    monkeypatch.setattr(catalog, "EMBEDDED", tmp_path / "embedded")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UNCLIP_MODELS", str(tmp_path / "models"))
    root = tmp_path / "models"
    shutil.copytree(tiny_models / "tiny", root / "sound")
    (root / "sound" / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# x\n")
    (root / "broken").mkdir()
    data = (tiny_models / "tiny" / "prior.safetensors").read_bytes()
    (root / "broken" / "prior.safetensors").write_bytes(data[:-5])
    return root


def unclip(capsys, *arguments):
    code = run(["models", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_table_shows_sound_and_broken_models(root, capsys):
    code, out, _ = unclip(capsys)
    lines = out.splitlines()
    assert code == 0 and lines[0].split() == ["NAME", "STAGES", "DTYPE", "SIZE", "LICENCE", "GRAPHS", "FOLDER"]
    assert lines[1].startswith("broken  broken") and lines[1].endswith(str(root / "broken"))
    assert "clip prior decoder upsampler_256 upsampler_1024" in lines[2]
    size = sum(path.stat().st_size for path in (root / "sound").glob("*.safetensors") if len(path.suffixes) == 1)
    assert "fp32" in lines[2] and "Apache-2.0" in lines[2] and lines[2].endswith(str(root / "sound"))
    assert size_text(size) in lines[2]
    assert lines[3].startswith(f"broken: {root / 'broken' / 'prior.safetensors'}: truncated")
    assert lines[4].startswith("more with `unclip pull NAME`: kandinsky-2-2, ")
    assert str(root) in lines[5]


def test_a_prior_that_nobody_has_tried_is_marked(root, family, capsys):
    family.eclipse_prior(root / "ECLIPSE_Karlo_Prior")
    _, out, _ = unclip(capsys, "eclipse-karlo")
    assert "prior (broken) (experimental)" in out and "put one beside it" in out
    _, out, _ = unclip(capsys, "--json")
    assert [report["experimental"] for report in json.loads(out)] == [False, False, True]


def test_one_model_in_detail(root, capsys):
    code, out, _ = unclip(capsys, "sound")
    assert code == 0 and "broken" not in out
    assert [line.split()[-1] for line in out.splitlines()[2:4]] == ["clip.safetensors", "prior.safetensors"]
    assert "sound runs       text_to_image\n" in out
    cannot = [line.split()[3] for line in out.splitlines() if line.startswith("sound cannot run")]
    assert cannot == ["depth_kandinsky", "prior_into_sd_unclip_comfyui", "text_to_image_sd_unclip"]
    code, out, err = unclip(capsys, "nothing")
    assert code == 2 and err == "error: models: no model 'nothing'; installed: broken, sound\n"


def test_a_model_runs_the_graphs_whose_stages_it_has_and_says_what_others_want(root, capsys):
    for name in ("prior", "ar_prior", "upsampler_1024", "tiny.pca"):
        (root / "sound" / f"{name}.safetensors").unlink()
    code, out, _ = unclip(capsys, "sound")
    assert code == 0
    runs = [line.split()[2] for line in out.splitlines() if line.startswith("sound runs")]
    cannot = {line.split()[3]: line.split(None, 4)[4] for line in out.splitlines() if line.startswith("sound cannot")}
    graphs = len(list(SHIPPED.glob("*.json")))
    assert {"image_variations", "interpolate_images"} <= set(runs) and len(runs) + len(cannot) == graphs
    assert cannot["text_to_image"] == "no prior (Diffusion Prior (unCLIP)); no upsampler_1024 (Upsample 1024)"
    assert cannot["pca_reconstruction"] == (
        "no PCA basis; `unclip fit-pca --clip sound --data FOLDER` fits one (PCA Project)"
    )
    assert cannot["autoregressive_prior"].startswith("no ar_prior (Autoregressive Prior)")
    assert f" {len(runs)} of {graphs} " in unclip(capsys)[1]


def test_json_has_the_same_and_more(root, capsys):
    code, out, _ = unclip(capsys, "--json")
    broken, sound = json.loads(out)
    assert code == 0 and (broken["name"], sound["name"]) == ("broken", "sound")
    assert broken["stages"] == {} and "truncated" in broken["problems"][0]
    assert sound["licence"] == "Apache-2.0" and sound["layout"] == "native" and sound["dtypes"] == ["fp32"]
    assert sound["stages"]["prior"]["files"] == [str(root / "sound" / "prior.safetensors")]
    assert sound["parameters"] == sum(stage["parameters"] for stage in sound["stages"].values()) > 1000


def test_verify_reads_everything_and_says_so_in_its_exit_code(root, capsys):
    code, out, err = unclip(capsys, "sound", "--verify")
    assert code == 0 and out.splitlines()[-1] == "sound: ok"
    code, out, err = unclip(capsys, "--verify")
    assert code == 1 and "sound: ok" in out and "broken: ok" not in out
    assert f"broken: {root / 'broken' / 'prior.safetensors'}: truncated" in err
    code, out, _ = unclip(capsys, "broken", "--verify", "--json")
    assert code == 1
    (problem,) = json.loads(out)[0]["problems"]
    assert problem["file"].endswith("prior.safetensors") and problem["found"].startswith("truncated")


def test_answers_without_torch_and_at_once(root):
    code = (
        "import sys, importlib.abc\n"
        "class Refuse(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'numpy', 'safetensors', 'huggingface_hub', 'open_clip'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from comfyui_unclip.workflows.cli import run\n"
        "sys.exit(run(['models']))\n"
    )
    usage = time.process_time, os.times
    before = usage[1]().children_user
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "sound" in result.stdout
    assert usage[1]().children_user - before < 1.0  # processor seconds: a busy machine proves nothing


def test_a_checkout_in_custom_nodes_finds_the_editors_models(tmp_path, monkeypatch):
    assert host.LocalHost().model_folders() == []
    checkout = tmp_path / "ComfyUI" / "custom_nodes" / "comfyui-unclip"
    checkout.mkdir(parents=True)
    monkeypatch.setattr(host, "CHECKOUT", checkout)
    assert host.LocalHost().model_folders() == []
    (tmp_path / "ComfyUI" / "folder_paths.py").touch()
    assert host.LocalHost().model_folders() == [tmp_path / "ComfyUI" / "models" / "unclip"]
