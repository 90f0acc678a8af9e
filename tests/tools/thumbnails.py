"""Pictures of the graphs, from their finished outputs: templates' thumbnails, and those that help pages show.

    for graph in workflows/*.json; do unclip run "$graph" -o out/$(basename "$graph" .json); done
    python tests/tools/thumbnails.py out        # workflows/NAME.jpg, and web/docs/NAME.jpg where a help page wants it

Of out/NAME/ (or out/NAME.png) the newest picture is taken, or the one that SHOWN names; a graph without one keeps what
it has, or, having nothing, gets a sketch of what it is for (sketches.py): of a model that does not come with the pack
there is no picture to show.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import sketches
from PIL import Image, ImageFilter, ImageOps

ROOT = Path(__file__).resolve().parents[2]
CARD = (400, 400)  # template cards are square
PAGE = (640, 640)
STRIP = 1.8  # a picture so much wider than high is a strip
BLANK = 0.8  # of a cell is paper: a label, or nothing
LIMIT = 40 * 1024  # bytes of a picture
SHOWN = {"several_captions": "each"}  # graph -> how the file's name begins, where not the newest says what it is for
ENDINGS = (".png", ".jpg", ".webp", ".gif")


def picture_of(folder: Path, graph: str) -> Path | None:
    """The newest still picture that a graph left, of those that may stand for it."""
    found = list((folder / graph).rglob(f"{SHOWN.get(graph, '')}*.png"))
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
    """The picture in a card's shape, whole, before a blur of itself; a strip's cells in rows."""
    small = ImageOps.contain(folded(picture), CARD, Image.Resampling.LANCZOS)
    behind = ImageOps.fit(picture, CARD, Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(16))
    behind.paste(small, ((CARD[0] - small.width) // 2, (CARD[1] - small.height) // 2))
    return behind


def folded(picture: Image.Image) -> Image.Image:
    """A wide sheet of cells (Image Grid) in about as many rows as columns, without labels, which nobody could read on a
    card; any other picture as it is."""
    if picture.width < STRIP * picture.height:
        return picture
    pixels = np.asarray(picture.convert("RGB"))
    paper = (pixels == 255).all(-1)
    across, down = _runs(~paper.all(0)), _runs(~paper.all(1))
    wide, high = (max(end - start for start, end in runs) for runs in (across, down))
    cells = [
        picture.crop((left, top, right, bottom))
        for top, bottom in down
        for left, right in across
        if right - left > 0.95 * wide and bottom - top > 0.95 * high and paper[top:bottom, left:right].mean() < BLANK
    ]
    if len(cells) < 3 or not 0.5 < wide / high < 2:
        return picture
    columns = math.ceil(math.sqrt(len(cells) * high / wide))
    rows = math.ceil(len(cells) / columns)
    gap = max(2, wide // 40)
    sheet = Image.new("RGB", (columns * (wide + gap) - gap, rows * (high + gap) - gap), "white")
    for number, cell in enumerate(cells):
        sheet.paste(cell, (number % columns * (wide + gap), number // columns * (high + gap)))
    return sheet


def _runs(inked: np.ndarray) -> list[tuple[int, int]]:
    """Start and end of each stretch that holds something."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inked, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)) or [(0, len(inked))]


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
        card_file = graph.with_suffix(".jpg")
        if source is None:
            print(f"{graph.stem}: no picture in {outputs / graph.stem}")
            if not card_file.is_file():
                save(sketches.card(json.loads(graph.read_text(encoding="utf-8"))), card_file)
                print(f"{card_file.relative_to(root)}: a sketch")
                written.append(card_file)
            continue
        with Image.open(source) as opened:
            picture = opened.convert("RGB")
        targets = [(card_file, card(picture))]
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
