"""Pictures of the graphs, from their finished outputs: templates' thumbnails, and those that help pages show.

    for graph in workflows/*.json; do unclip run "$graph" -o out/$(basename "$graph" .json); done
    python tests/tools/thumbnails.py out        # workflows/NAME.jpg, and web/docs/NAME.jpg where a help page wants it

Of out/NAME/ (or out/NAME.png) the newest picture is taken; a graph without one keeps what it has.
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

from PIL import Image, ImageFilter, ImageOps

ROOT = Path(__file__).resolve().parents[2]
CARD = (400, 300)  # what the editor's template cards are about
PAGE = (640, 640)
LIMIT = 40 * 1024  # bytes of a picture
ENDINGS = (".png", ".jpg", ".webp", ".gif")


def picture_of(folder: Path, graph: str) -> Path | None:
    """The newest still picture that a graph left."""
    found = list((folder / graph).rglob("*.png"))
    found = found or [path for ending in ENDINGS if (path := folder / f"{graph}{ending}").is_file()]
    return max(found, key=lambda path: (path.stat().st_mtime, path.name), default=None)


def wanted_by_pages(pages: Path) -> set[str]:
    """Names of the pictures that help pages show."""
    return {
        name
        for page in pages.glob("*/*.md")
        for name in re.findall(r"!\[[^\]]*\]\(([\w-]+)\.jpg\)", page.read_text(encoding="utf-8"))
    }


def card(picture: Image.Image) -> Image.Image:
    """The picture in a card's shape: strips and sheets whole, before a blur of themselves."""
    small = ImageOps.contain(picture, CARD, Image.Resampling.LANCZOS)
    behind = ImageOps.fit(picture, CARD, Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(16))
    behind.paste(small, ((CARD[0] - small.width) // 2, (CARD[1] - small.height) // 2))
    return behind


def page(picture: Image.Image) -> Image.Image:
    """The picture as wide as a help page, never enlarged."""
    shown = picture.copy()
    shown.thumbnail(PAGE, Image.Resampling.LANCZOS)
    return shown


def save(picture: Image.Image, path: Path) -> int:
    """As the best JPEG within the limit, written at once or not at all; returns its size."""
    for quality in (90, 85, 80, 70, 60, 50, 40, 30, 20, 10):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
        if buffer.tell() <= LIMIT:
            break
    else:
        raise ValueError(f"{path.name}: {buffer.tell()} bytes at the lowest quality, more than {LIMIT}")
    temporary = path.with_suffix(".jpg.part")
    temporary.write_bytes(buffer.getvalue())
    temporary.replace(path)
    return buffer.tell()


def make_all(outputs: Path, root: Path = ROOT) -> list[Path]:
    """Write every picture there is an output for; returns what was written."""
    written = []
    on_pages = wanted_by_pages(root / "web" / "docs")
    for graph in sorted((root / "workflows").glob("*.json")):
        source = picture_of(outputs, graph.stem)
        if source is None:
            print(f"{graph.stem}: no picture in {outputs / graph.stem}")
            continue
        with Image.open(source) as opened:
            picture = opened.convert("RGB")
        targets = [(graph.with_suffix(".jpg"), card(picture))]
        if graph.stem in on_pages:
            targets.append((root / "web" / "docs" / f"{graph.stem}.jpg", page(picture)))
        for path, made in targets:
            size = save(made, path)
            print(f"{path.relative_to(root)}: {made.width} x {made.height}, {size / 1024:.0f} KB, from {source.name}")
            written.append(path)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path, help="the folder of finished outputs")
    make_all(parser.parse_args().outputs)


if __name__ == "__main__":
    main()
