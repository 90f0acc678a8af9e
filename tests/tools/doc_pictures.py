"""Pictures of docs/manipulations.md and the README's first one, by the very commands that stand beside them.

    python tests/tools/doc_pictures.py                  # all; needs the embedded stack's weights
    python tests/tools/doc_pictures.py text_diff inpaint

A picture docs/images/NAME.png is the last PNG written by the first command that runs the graph NAME, or that
writes into out/NAME.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "manipulations.md"
README = ROOT / "README.md"
WIDTH, SINGLE = 1000, 320  # pixels: of a sheet, of a lone square picture


def commands(text: str) -> dict[str, list[str]]:
    """Of every graph that a page's commands run, and of every folder below out/, the first command: name to the words
    after `unclip`."""
    found: dict[str, list[str]] = {}
    for line in re.findall(r"^(?:\S*/)?unclip (run .*)$", text.replace("\\\n", " "), re.MULTILINE):
        words = shlex.split(line, comments=True)
        found.setdefault(Path(words[1]).stem, words)
        if "-o" in words and (folder := Path(words[words.index("-o") + 1])).parent.name == "out":
            found.setdefault(folder.name, words)
    return found


def pictures(text: str) -> list[str]:
    """Names of the pictures a page shows."""
    return re.findall(r"!\[[^\]]*\]\((?:docs/)?images/([\w-]+)\.png\)", text)


def made_by(words: list[str], folder: Path) -> Path:
    """The last PNG that `unclip WORDS` writes when its output folder is `folder`."""
    if "-o" in words:
        at = words.index("-o")
        words = [*words[:at], *words[at + 2 :]]
    start = "import sys; from comfyui_unclip.workflows.cli import run; sys.exit(run(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", start, *words, "-o", str(folder)], cwd=ROOT, check=True)
    found = sorted(folder.rglob("*.png"), key=lambda path: (path.stat().st_mtime, path.name))
    if not found:
        raise FileNotFoundError(f"`unclip {shlex.join(words)}` wrote no PNG into {folder}")
    return found[-1]


def fitted(picture: Image.Image) -> Image.Image:
    """Small enough for a page, in at most 256 colours."""
    side = SINGLE if picture.width == picture.height >= WIDTH else WIDTH
    picture = picture.convert("RGB")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)


def make(names: list[str], output: Path = ROOT / "docs" / "images") -> None:
    """Write the named pictures, or all."""
    page, readme = PAGE.read_text(encoding="utf-8"), README.read_text(encoding="utf-8")
    known = {**commands(readme), **commands(page)}
    shown = [name for name in dict.fromkeys(pictures(page) + pictures(readme)) if name in known]
    if unknown := set(names) - set(shown):
        raise ValueError(f"no page shows {', '.join(sorted(unknown))} beside its command; choose from {shown}")
    for name in names or shown:
        with tempfile.TemporaryDirectory() as folder:
            made = made_by(known[name], Path(folder))
            target = output / f"{name}.png"
            graph = ROOT / "workflows" / f"{name}.json"
            if name in pictures(page) or not graph.exists():
                with Image.open(made) as opened:
                    fitted(opened).save(target, optimize=True)
            else:  # the README's first is the file itself, with the graph in it
                target.write_bytes(made.read_bytes())
        print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    make(parser.parse_args().names)
