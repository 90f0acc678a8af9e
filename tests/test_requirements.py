"""requirements.txt, which ComfyUI's users install into a working environment, must never replace what is there."""

import json
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
# An old but supported environment, as a ComfyUI user may have it: built for CUDA, so a replacement would break it.
PRESENT = {"torch": "2.2.0+cu121", "torchvision": "0.17.0+cu121", "numpy": "1.26.4", "pillow": "10.2.0"}


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
