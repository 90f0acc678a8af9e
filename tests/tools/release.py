"""What the Comfy registry and a release ask of the repository.

    python tests/tools/release.py --repository OWNER/NAME --publisher ID    # once: writes them wherever they belong
    python tests/tools/release.py                                           # what the registry would refuse
    python tests/tools/release.py --check v0.1.0                            # before a tag: what is missing as well
    python tests/tools/release.py --check v0.1.0 --changes FILE             # ... and what that version changed

The rules are those of https://docs.comfy.org/registry/specifications. Needs Pillow alone.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PLACEHOLDER = "OWNER"
FILES = ("pyproject.toml", "README.md", "README.zh.md", "docs/install.md")  # that say where the repository lies
ICON_SIDE = 400  # pixels, at most
OPERATING_SYSTEMS = ("OS Independent", "Microsoft", "POSIX", "MacOS")
ACCELERATORS = (
    "GPU :: NVIDIA CUDA",
    "GPU :: AMD ROCm",
    "GPU :: Intel Arc",
    "NPU :: Huawei Ascend",
    "GPU :: Apple Metal",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", metavar="TAG", help="list what keeps TAG from being published; exit code 1")
    parser.add_argument("--changes", metavar="FILE", type=Path, help="write the section of TAG in CHANGELOG.md there")
    parser.add_argument("--repository", metavar="OWNER/NAME", help="where the repository lies on GitHub")
    parser.add_argument("--publisher", metavar="ID", help="the publisher's id at registry.comfy.org, without the @")
    given = parser.parse_args()
    if given.repository and given.publisher:
        fill_in(ROOT, given.repository, given.publisher)
    elif given.repository or given.publisher:
        parser.error("--repository and --publisher belong together")
    if given.changes and not given.check:
        parser.error("--changes goes with --check TAG")
    found = faults(ROOT) + (unready(ROOT, given.check) if given.check else [])
    print("\n".join(found) or (f"{given.check} can be published" if given.check else "the registry would take it"))
    if given.changes and not found:
        given.changes.write_text(changes(ROOT, given.check.removeprefix("v")), encoding="utf-8")
    for line in [] if given.check else placeholders(ROOT):
        print(f"for its owner to fill in: {line}")
    return 1 if found else 0


def fill_in(root: Path, repository: str, publisher: str) -> None:
    """Write the repository's name and the publisher's into `FILES`, in the place of what they have."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise SystemExit(f"--repository {repository}: write OWNER/NAME, as in the address after github.com/")
    urls = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    before = urls["Repository"].removeprefix("https://github.com/")
    for path in (root / name for name in FILES):
        text = path.read_text(encoding="utf-8")
        text = re.sub(rf"(?<=\.com/){re.escape(before)}(?![\w.-])", repository, text)  # github and its raw files
        if path.name == "pyproject.toml":
            text = re.sub(r'^PublisherId = ".*"$', f'PublisherId = "{publisher}"', text, flags=re.MULTILINE)
        path.write_text(text, encoding="utf-8")


def placeholders(root: Path) -> list[str]:
    """Which of `FILES` still name no owner, and what fills them in."""
    found = []
    for name in FILES:
        text = (root / name).read_text(encoding="utf-8")
        if re.search(rf'= "{PLACEHOLDER}"|\.com/{PLACEHOLDER}/', text):
            found.append(
                f"{name}: {PLACEHOLDER} is a placeholder; `python tests/tools/release.py --repository OWNER/NAME "
                "--publisher ID` writes yours"
            )
    return found


def faults(root: Path) -> list[str]:
    """What the registry would refuse, or ignore, in the pyproject.toml of `root`; placeholders are allowed."""
    data = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project, comfy = data["project"], data["tool"]["comfy"]
    name, version = project["name"], project["version"]
    urls = {**project.get("urls", {}), **{key: comfy.get(key, "") for key in ("Icon", "Banner")}}
    needed = comfy.get("requires-comfyui", "")
    classifiers = project.get("classifiers", [])
    systems = [entry.partition(" :: ")[2] for entry in classifiers if entry.startswith("Operating System ::")]
    environments = [entry.partition(" :: ")[2] for entry in classifiers if entry.startswith("Environment ::")]
    checks = {
        f"name {name!r}: letters, digits and single - _ . after a letter, at most 99": len(name) < 100
        and re.fullmatch(r"[A-Za-z](?:[-_.]?[A-Za-z0-9])*", name),
        f"name {name!r}: must not hold 'comfyui'": "comfyui" not in name.lower(),
        f"version {version!r}: must be X.Y.Z": re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version),
        "description: missing, or longer than a card shows (300)": 20 < len(project.get("description", "")) <= 300,
        f"license {project.get('license')!r}: must be an SPDX name": project.get("license") == "Apache-2.0",
        "license-files: LICENSE must be there": project.get("license-files") == ["LICENSE"]
        and (root / "LICENSE").is_file(),
        "urls: Repository, Documentation, Issues and Changelog belong there": {
            "Repository",
            "Documentation",
            "Issues",
            "Changelog",
        }
        <= set(urls),
        "urls: must begin with https://": all(url.startswith("https://") for url in urls.values()),
        "PublisherId and DisplayName belong there": comfy.get("PublisherId") and comfy.get("DisplayName"),
        f"requires-comfyui {needed!r}: must be an operator and X.Y.Z": re.fullmatch(
            r"(?:(?:==|>=|<=|!=|~=|>|<)\d+\.\d+\.\d+,?)+(?<!,)", needed
        ),
        f"classifiers: operating system among {', '.join(OPERATING_SYSTEMS)}": systems
        and all(system.startswith(OPERATING_SYSTEMS) for system in systems),
        f"classifiers: environment among {', '.join(ACCELERATORS)}": all(kind in ACCELERATORS for kind in environments),
        "classifiers: a licence belongs into `license` alone": not any("License ::" in entry for entry in classifiers),
    }
    return [message for message, holds in checks.items() if not holds] + _pictures(root, comfy)


def _pictures(root: Path, comfy: dict) -> list[str]:
    found = []
    for key in ("Icon", "Banner"):
        path = root / "docs" / "images" / comfy.get(key, "").rpartition("/")[2]
        if not path.is_file():
            found.append(f"{key} {comfy.get(key)!r}: no such file in docs/images")
            continue
        with Image.open(path) as picture:
            width, height = picture.size
        fits = width == height <= ICON_SIDE if key == "Icon" else width * 9 == height * 21
        if not fits:
            wanted = f"a square of at most {ICON_SIDE} px" if key == "Icon" else "21:9"
            found.append(f"{key} {path.name}: {width} x {height}, must be {wanted}")
    return found


def unready(root: Path, tag: str) -> list[str]:
    """What of `root` still stands against publishing `tag`: placeholders, another version, no dated changes."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    version = tomllib.loads(text)["project"]["version"]
    found = placeholders(root)
    if tag != f"v{version}":
        found.append(f"tag {tag}: pyproject.toml has version {version}; they must be equal")
    if not changes(root, version):
        found.append(f"CHANGELOG.md: has no section '## {version} (YYYY-MM-DD)'")
    return found


def changes(root: Path, version: str) -> str:
    """The dated section of CHANGELOG.md on a version, without its heading; empty where there is none."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$(.*?)(?=^## |\Z)", text, re.M | re.S)
    return section[1].strip() + "\n" if section and section[1].strip() else ""


if __name__ == "__main__":
    sys.exit(main())
