"""requirements.txt, which ComfyUI's users install into a working environment, must never replace what is there."""

import importlib.metadata
import json
import re
import subprocess
import sys
import venv
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
# An old but supported environment, as a ComfyUI user may have it: built for CUDA, so a replacement would break it.
PRESENT = {"torch": "2.7.0+cu126", "torchvision": "0.22.0+cu126", "numpy": "1.26.4", "pillow": "10.2.0"}


def test_installing_requirements_keeps_torch(tmp_path):
    venv.create(tmp_path / "env", with_pip=False)
    site = next((tmp_path / "env").rglob("site-packages"))
    for name, version in PRESENT.items():
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    python = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"

    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--dry-run", "--quiet", "--report", "-"]
    done = subprocess.run([*command, "-r", str(ROOT / "requirements.txt")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    chosen = {item["metadata"]["name"].lower() for item in json.loads(done.stdout)["install"]}

    assert "open-clip-torch" in {name.replace("_", "-") for name in chosen}
    assert not chosen & set(PRESENT)


def test_requirements_is_one_bounded_line():
    lines = (ROOT / "requirements.txt").read_text().split()
    assert len(lines) == 1
    assert lines[0].startswith("open_clip_torch>=") and ",<" in lines[0]


def test_a_pytorch_is_declared_only_if_it_has_what_is_used():
    """torch.OutOfMemoryError came with 2.5; 2.7 is the oldest that ComfyUI takes and that the tests are run with."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (torch,) = (found for found in map(Requirement, declared) if found.name == "torch")
    assert "2.4.1" not in torch.specifier and PRESENT["torch"].partition("+")[0] in torch.specifier


def frontend_bounds(repository):
    """(extra, lowest, cap) of every extra that brings the editor's page, versions as (major, minor)."""
    extras = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, requirements in extras.items():
        for line in requirements:
            if line.startswith("comfyui-frontend-package"):
                bounds = dict(re.findall(r"(>=|<)(\d+\.\d+)", line))
                yield extra, version(bounds.get(">=", "0.0")), version(bounds.get("<", "9999.0"))


def version(text):
    return tuple(map(int, text.split(".")[:2]))


def test_the_editors_page_is_capped_at_what_is_tested(repository):
    """Its protocol is private and changes with minor versions: the one below the cap is the one these tests run on."""
    tried = re.search(r"Tried with frontends ([\d.]+) and ([\d.]+\d)", (repository / "docs" / "editor.md").read_text())
    here = version(importlib.metadata.version("comfyui-frontend-package"))
    for extra, lowest, cap in frontend_bounds(repository):
        assert lowest == version(tried[1]), extra
        assert cap == (here[0], here[1] + 1), f"{extra}: run tests/workflows/server, then move the cap"
    assert version(tried[2]) == here
    assert [extra for extra, *_ in frontend_bounds(repository)] == ["editor", "test"]
