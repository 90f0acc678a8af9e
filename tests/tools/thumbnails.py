"""Pictures of the graphs, from their finished outputs: templates' thumbnails, and those that help pages show.

    for graph in workflows/*.json; do unclip run "$graph" -o out/$(basename "$graph" .json); done
    python tests/tools/thumbnails.py out        # workflows/NAME.jpg, and web/docs/NAME.jpg where a help page wants it

Of out/NAME/ (or out/NAME.png) the newest picture is taken; a graph without one keeps what it has, or, having nothing,
gets a drawing of itself: of a model that does not come with the pack there is no picture to show.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from pathlib import Path

from PIL import Image, ImageColor, ImageDraw, ImageFilter, ImageFont, ImageOps

ROOT = Path(__file__).resolve().parents[2]
CARD = (400, 400)  # template cards are square
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


def drawing(graph: dict) -> Image.Image:
    """A card with the graph's boxes and links, as they stand on the canvas, and the model that it is for."""
    fine = 2  # drawn larger, for smooth lines
    canvas = Image.new("RGB", (CARD[0] * fine, CARD[1] * fine), "#1c1e22")
    pen = ImageDraw.Draw(canvas)
    groups = [group["bounding"] for group in graph["groups"]]
    left, top = min(x for x, *_ in groups), min(y for _, y, *_ in groups)
    width = max(x + w for x, _, w, _ in groups) - left
    height = max(y + h for _, y, _, h in groups) - top
    margin, foot = 16 * fine, 44 * fine
    scale = min((canvas.width - 2 * margin) / width, (canvas.height - margin - foot) / height)
    shift = (canvas.width - scale * width) / 2

    def place(x: float, y: float) -> tuple[float, float]:
        return shift + scale * (x - left), margin + scale * (y - top)

    for group in graph["groups"]:
        x, y, w, h = group["bounding"]
        colour = ImageColor.getrgb(group["color"])
        muted = tuple(round(0.35 * channel + 20) for channel in colour)
        pen.rounded_rectangle((*place(x, y), *place(x + w, y + h)), 4 * fine, fill=muted, outline=colour)
    nodes = {node["id"]: node for node in graph["nodes"] if node["type"] not in ("Note", "MarkdownNote")}
    for node in nodes.values():
        (x, y), (w, h) = node["pos"], node["size"]
        pen.rounded_rectangle((*place(x, y - 30), *place(x + w, y + h)), 4 * fine, fill="#3a3d42", outline="#5a5e66")
    for _, origin, slot, target, entry, _ in graph["links"]:
        (x, y), (x2, y2) = nodes[origin]["pos"], nodes[target]["pos"]
        if x + nodes[origin]["size"][0] <= x2:  # those within a column would lie across its boxes
            start, end = place(x + nodes[origin]["size"][0], y + 20 * slot + 14), place(x2, y2 + 20 * entry + 14)
            pen.line((start, end), fill="#9fc5ff", width=fine)
    font = ImageFont.load_default(round(9.5 * fine))
    for node in nodes.values():
        title, room = node["title"], scale * (node["size"][0] - 24)
        while pen.textlength(title, font) > room:
            title = title.rstrip("…")[:-1] + "…"
        pen.text(place(node["pos"][0] + 16, node["pos"][1] + 14), title, fill="#e6e6e6", font=font)
    model = next(node["widgets_values"][0] for node in nodes.values() if node["type"] == "UnCLIPLoader")
    centre = (canvas.width / 2, canvas.height - foot / 2)
    pen.text(centre, f"for {model}", fill="#ffffff", anchor="mm", font=ImageFont.load_default(16 * fine))
    return canvas.resize(CARD, Image.Resampling.LANCZOS)


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
                save(drawing(json.loads(graph.read_text(encoding="utf-8"))), card_file)
                print(f"{card_file.relative_to(root)}: a drawing of the graph")
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
