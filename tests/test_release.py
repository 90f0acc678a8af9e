"""What is published: the registry's rules, the archive that it gets, and the wheel, which works without a checkout.

The registry's own tool runs beside these tests in .github/workflows/tests.yml, and in here where it is at hand: `comfy`
of `pip install comfy-cli`, in an environment of its own, on the path or named by $UNCLIP_COMFY_CLI.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# What a checkout has and no wheel needs: tests, the pages of docs/, and how the repository is kept.
NOT_IN_WHEEL = (
    "tests/",
    "docs/",
    ".",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README",
    "pyproject.toml",
    "requirements.txt",
)


@pytest.fixture(scope="module")
def release(load_tool):
    return load_tool("release")


@pytest.fixture(scope="module")
def tracked(repository):
    """The repository's files, as git knows them or would."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    return sorted(name for name in set(done.stdout.splitlines()) if (repository / name).is_file())


def test_the_registry_would_take_it(release, repository):
    assert release.faults(repository) == []


COMFY = os.environ.get("UNCLIP_COMFY_CLI") or shutil.which("comfy")


@pytest.mark.skipif(not COMFY, reason="no comfy-cli: set UNCLIP_COMFY_CLI to its `comfy`")
def test_the_registrys_own_tool_would_take_it(repository, tracked, tmp_path):
    def validate(folder):
        command = [COMFY, "--skip-prompt", "--no-enable-telemetry", "node", "validate"]
        env = {**_clean(), "HOME": str(tmp_path), "PATH": f"{Path(COMFY).parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    code, told = validate(repository)
    assert code == 0 and "All validation checks passed" in told and "warnings" not in told, told
    for name in tracked:  # that it looks at all: what it does not like is said
        if name == "pyproject.toml" or (name.startswith("nodes/") and name.endswith(".py")):
            (tmp_path / "pack" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, tmp_path / "pack" / name)
    assert "warnings" not in validate(tmp_path / "pack")[1]
    with (tmp_path / "pack" / "nodes" / "text.py").open("a") as file:
        file.write("\n\ndef computed(text):\n    return eval(text)\n")
    assert "Security warnings found" in validate(tmp_path / "pack")[1]  # which are still no error, exit code 0


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('name = "unclip"', 'name = "ComfyUI-unclip"', "must not hold 'comfyui'"),
        ('name = "unclip"', 'name = "un--clip"', "single"),
        ('version = "0.1.0"', 'version = "0.1"', "must be X.Y.Z"),
        ("icon.png", "banner.png", "Icon banner.png: 1260 x 540, must be a square of at most 400 px"),
        ("banner.png", "icon.png", "must be 21:9"),
        ('">=0.3.64"', '"0.3"', "requires-comfyui '0.3'"),
        ("Environment :: GPU :: NVIDIA CUDA", "Environment :: GPU", "classifiers: environment"),
        ('license-files = ["LICENSE"]', "", "license-files"),
        ("Repository = ", "Source = ", "urls: Repository"),
    ],
)
def test_what_the_registry_refuses_is_named(release, repository, tmp_path, old, new, fault):
    text = (repository / "pyproject.toml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "pyproject.toml").write_text(text.replace(old, new), encoding="utf-8")
    (tmp_path / "LICENSE").touch()
    shutil.copytree(repository / "docs" / "images", tmp_path / "docs" / "images")
    (message,) = release.faults(tmp_path)
    assert fault in message


def test_a_tag_is_published_with_its_version_its_changes_and_no_placeholder(release, repository, tmp_path):
    (tmp_path / "docs").mkdir()
    for name in (*release.FILES, "CHANGELOG.md"):
        shutil.copy(repository / name, tmp_path / name)
    text = (tmp_path / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.*)"', text, re.MULTILINE)[1]
    release.fill_in(tmp_path, "someone/some-pack", "some-publisher")
    for name in release.FILES:
        named = (tmp_path / name).read_text(encoding="utf-8")
        assert "OWNER/comfyui-unclip" not in named and "github.com/someone/some-pack" in named, name
    named = (tmp_path / "pyproject.toml").read_text(encoding="utf-8")
    assert not re.search(r'github\S*\.com/(?!someone/some-pack[/"])', named) and '"some-publisher"' in named
    assert release.unready(tmp_path, f"v{version}") == []
    assert [line.partition(":")[0] for line in release.unready(tmp_path, "v9.9.9")] == ["tag v9.9.9"]
    release.fill_in(tmp_path, "OWNER/some-pack", "OWNER")
    assert [line.partition(": OWNER is a placeholder")[0] for line in release.placeholders(tmp_path)] == [
        *release.FILES
    ]
    log = "# Changes\n\n## 9.9.9 (2030-01-02)\n\n- One.\n\nTwo.\n\n## 9.9.8\n\n- Not dated.\n"
    (tmp_path / "CHANGELOG.md").write_text(log, encoding="utf-8")
    assert [release.changes(tmp_path, version) for version in ("9.9.9", "9.9.8")] == ["- One.\n\nTwo.\n", ""]
    assert f"no section '## {version}" in release.unready(tmp_path, f"v{version}")[-1]


def test_every_page_that_says_where_the_repository_lies_is_filled_in(release, repository, tracked):
    pages = [name for name in tracked if name.endswith((".md", ".toml", ".py")) and not name.startswith("tests/")]
    named = {name for name in pages if ".com/OWNER/" in (repository / name).read_text(encoding="utf-8")}
    assert named <= set(release.FILES)


def test_icon_and_banner_are_what_the_script_draws(load_tool, repository):
    tool = load_tool("registry_pictures")
    for name, drawn in (("icon", tool.icon()), ("banner", tool.banner())):
        with Image.open(repository / "docs" / "images" / f"{name}.png") as kept:
            difference = np.abs(np.asarray(kept, np.int16) - np.asarray(drawn, np.int16)).mean()
        assert difference < 0.5, f"{name}.png: python tests/tools/registry_pictures.py"  # of 255; Pillows differ


def test_the_registrys_archive_holds_the_pack_and_no_tests(repository, tracked):
    command = ["git", "ls-files", "--cached", "--others", "--ignored", "--exclude-from", ".comfyignore"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    kept = sorted(set(tracked) - set(done.stdout.splitlines()))
    assert not any(name.startswith(("tests/", ".", "docs/images/")) for name in kept)
    assert {"__init__.py", "LICENSE", "README.md", "pyproject.toml", "requirements.txt", "CHANGELOG.md"} <= set(kept)
    needed = [name for name in tracked if name.startswith(("nodes/", "workflows/", "web/", "locales/", "unclip_core/"))]
    assert set(needed) - set(kept) == {"unclip_core/weights/storybook/recipe.sh"}


@pytest.fixture(scope="module")
def built(repository, tracked, tmp_path_factory):
    """(sdist, wheel) of a copy of the checkout; the wheel is built from what the sdist holds."""
    base = tmp_path_factory.mktemp("release")
    for name in tracked:
        if not name.startswith(("tests/", "docs/")):
            (base / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, base / "source" / name)
    sdist = base / _build("sdist", base / "source", base)
    with tarfile.open(sdist) as archive:
        archive.extractall(base / "unpacked", filter="data")
    (unpacked,) = (base / "unpacked").iterdir()
    return sdist, base / _build("wheel", unpacked, base)


def _build(kind, source, target):
    """The name of the file that setuptools, called as pip calls it, writes into `target`."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, target], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


def test_the_wheel_holds_every_file_that_the_pack_needs(built, tracked):
    sdist, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    packed = {name.removeprefix("comfyui_unclip/") for name in names if name.startswith("comfyui_unclip/")}
    assert packed == {name for name in tracked if not name.startswith(NOT_IN_WHEEL)} - {"LICENSE"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    with tarfile.open(sdist) as archive:
        assert {"LICENSE", "README.md"} <= {name.partition("/")[2] for name in archive.getnames()}


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The `unclip` of an environment that has the wheel; what the wheel depends on, PyTorch above all, is borrowed."""
    base = tmp_path_factory.mktemp("fresh")
    venv.create(base / "env", with_pip=False)
    scripts = base / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    command = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*command, str(built[1])], check=True, env=_clean())
    site = next((base / "env").rglob("site-packages"))
    # Folders that a .pth names are searched, but their own .pth files, an editable checkout's among them, are not read.
    folders = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    (site / "borrowed.pth").write_text("\n".join(sorted(folders)) + "\n")
    return scripts / "unclip"


def _clean():
    """Without what would lead Python, or the pack, back to the checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "UNCLIP_MODELS")}


def test_the_readmes_command_works_from_the_wheel_with_graphs_by_name(installed, repository, tmp_path):
    readme = (repository / "README.md").read_text(encoding="utf-8")
    command = re.search(r"^\.venv/bin/unclip (run text_to_image .*)$", readme, re.MULTILINE)[1]
    assert command == 'run text_to_image -s prompt="a red star on a night sky" -s seed=4 -o out'
    words = ["run", "text_to_image", "-s", "prompt=a red star on a night sky", "-s", "seed=4", "-o", "out", "--json"]
    done = subprocess.run([installed, *words], cwd=tmp_path, env=_clean(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()][-1] == "end"
    picture = np.asarray(Image.open(tmp_path / "out" / "unclip_00001_.png"), np.float64)
    assert picture.shape == (1024, 1024, 3)
    red, green, blue = picture[412:612, 412:612].mean((0, 1))
    corner = picture[:100, :100].mean((0, 1))
    assert red > 1.5 * max(green, blue) and corner.max() < 110  # a red middle, a dark corner

    where = "import comfyui_unclip, pathlib; print(pathlib.Path(comfyui_unclip.__file__).parent)"
    python = installed.with_name("python")
    found = subprocess.run([python, "-c", where], cwd=tmp_path, env=_clean(), capture_output=True, text=True).stdout
    assert Path(found.strip()).is_relative_to(installed.parents[1])  # not the checkout


def test_the_wheel_knows_its_graphs_and_models(installed, tmp_path):
    def unclip(*words):
        return subprocess.run([installed, *words], cwd=tmp_path, env=_clean(), capture_output=True, text=True)

    assert unclip("validate", "text_to_image", "image_variations", "inpaint").returncode == 0
    assert "prompt" in unclip("show", "text_to_image").stdout
    assert "save IMAGE.filename_prefix" in unclip("show", "Vary a picture (unCLIP)").stdout
    assert re.fullmatch(r"unclip \d+\.\d+\.\d+\n", unclip("--version").stdout)
    models = unclip("models", "storybook").stdout
    assert "text_to_image" in models and "broken" not in models
