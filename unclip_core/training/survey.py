"""What a source holds, before anything is trained on it: `unclip data`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw

from ..clip.model import Clip
from ..clip.words import count_words
from ..pictures.fonts import cut, font_for
from ..texts import json_text, printable
from ..types import model_to_image
from .data import Data
from .sources.pairs import EmbeddingPairs
from .sources.pictures import PictureData

SIDES = (64, 256, 1024)  # what the decoder and the two upsamplers of a cascade paint
SHEET_PAIRS = 24
CELL = 192
LISTED = 5  # names spelt out where there are many


@dataclass(frozen=True)
class Survey:
    """What was found. Counts are of rows; skipped and unread are (name, reason)."""

    where: str
    rows: int
    skipped: list[tuple[str, str]]
    no_caption: list[str]  # names of rows without one
    unread: list[tuple[str, str]]  # captions that are there and cannot be read
    captions: int
    words: Counter[str]
    lengths: list[int]  # words of each caption, sorted
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (width, height); empty where there are no pictures
    notes: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)  # words that a given CLIP does not know
    cut: int = 0  # captions that do not fit a given CLIP
    width: int = 0  # of embeddings, where the source has no pictures

    def smaller_than(self, side: int) -> int:
        """Pictures whose short side has fewer pixels."""
        return sum(min(size) < side for size in self.sizes)


def survey(data: Data, where: str, clip: Clip | None = None) -> Survey:
    """Read all captions of `data` once. clip: whose vocabulary and context the captions are held against."""
    no_caption, unread = [], []
    words: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    lengths, count, too_long = [], 0, 0
    files = data if isinstance(data, PictureData) else None
    for row in range(len(data)):
        name = files.sample(row).name if files else f"row {row}"
        try:
            found = files.sample(row).read_captions() if files else data.all_captions(row)
        except ValueError as error:
            unread.append((name, str(error)))
            continue
        if not found:
            no_caption.append(name)
        for caption in found:
            count += 1
            said = count_words([caption])
            words.update(said)
            lengths.append(said.total())
            if clip is not None:
                unknown.update(clip.unknown_words(caption))
                too_long += bool(clip.truncated(caption))
    return Survey(
        where=where,
        rows=len(data),
        skipped=data.skipped() if hasattr(data, "skipped") else [],
        no_caption=no_caption,
        unread=unread,
        captions=count,
        words=words,
        lengths=sorted(lengths),
        sizes=[files.size(row) for row in range(len(files))] if files else [],
        notes=Counter(note for seen in files.seen for note in seen.notes) if files else Counter(),
        unknown=unknown,
        cut=too_long,
        width=data.vectors.shape[1] if isinstance(data, EmbeddingPairs) else 0,
    )


def report(found: Survey) -> str:
    """The survey for people, a fact a line."""

    def names(rows: list[str]) -> str:
        more = f" and {len(rows) - LISTED} more" if len(rows) > LISTED else ""
        return "; ".join(rows[:LISTED]) + more

    lines = [f"{found.where}: {found.rows} rows kept, {len(found.skipped)} skipped"]
    if found.width:
        lines.append(f"  embeddings, {found.width} wide: a prior learns from them, with the CLIP that made them")
    reasons: dict[str, list[str]] = {}
    for name, reason in found.skipped:
        reasons.setdefault(reason, []).append(name)
    lines += [
        f"  skipped, {reason}: {len(rows)} ({names(rows)})"
        for reason, rows in sorted(reasons.items(), key=lambda item: -len(item[1]))
    ]
    lines += [f"  read with care, {note}: {count}" for note, count in found.notes.most_common()]
    lines.append(f"captions: {found.captions}, {len(found.words)} different words")
    if found.lengths:
        middle, most = found.lengths[len(found.lengths) // 2], found.lengths[-1]
        lines.append(f"  words a caption: {found.lengths[0]} to {most}, half of them up to {middle}")
        twice = sum(count > 1 for count in found.words.values())
        shown = ", ".join(f"{word} {count}" for word, count in found.words.most_common(12))
        lines.append(f"  said more than once: {twice} words; most often: {shown}")
    if found.no_caption:
        lines.append(f"  without a caption: {len(found.no_caption)} ({names(found.no_caption)})")
    lines += [f"  caption of {name} is {reason}" for name, reason in found.unread[:LISTED]]
    if len(found.unread) > LISTED:
        lines.append(f"  and {len(found.unread) - LISTED} more captions that cannot be read")
    if found.unknown:
        shown = ", ".join(f"{word} {count}" for word, count in found.unknown.most_common(12))
        lines.append(f"  words that this CLIP does not know: {len(found.unknown)} ({shown})")
    if found.cut:
        lines.append(f"  captions longer than this CLIP reads, their ends are dropped: {found.cut}")
    if found.sizes:
        short = sorted(min(size) for size in found.sizes)
        lines.append(f"pictures: short side {short[0]} to {short[-1]} px, half of them up to {short[len(short) // 2]}")
        lines += [
            f"  smaller than {side} px: {count} {_consequence(side)}"
            for side in SIDES
            if (count := found.smaller_than(side))
        ]
        wide = sum(max(size) > 2 * min(size) for size in found.sizes)
        if wide:
            lines.append(f"  more than twice as long as wide: {wide}; training sees the middle square only")
    return "\n".join(map(printable, lines))


def _consequence(side: int) -> str:
    if side == SIDES[0]:
        return "(they are enlarged)"
    return f"(the upsampler to {side} px does not train on them)"


def as_json(found: Survey) -> str:
    """The survey in full, for programs."""
    return json_text(
        {
            "where": found.where,
            "rows": found.rows,
            "skipped": found.skipped,
            "captions": found.captions,
            "without_caption": found.no_caption,
            "unread_captions": found.unread,
            "words": dict(found.words.most_common()),
            "unknown_words": dict(found.unknown.most_common()),
            "truncated_captions": found.cut,
            "notes": dict(found.notes),
            "smaller_than": {side: found.smaller_than(side) for side in SIDES} if found.sizes else {},
        },
        indent=1,
    )


def contact_sheet(data: Data, path: Path) -> None:
    """Pictures spread over the data, each whole, and beside it the square that a decoder of 64 px learns."""
    pairs = min(SHEET_PAIRS, len(data))
    rows = [index * len(data) // pairs for index in range(pairs)]
    columns, gap, line = min(4, pairs), 8, 18
    width, height = 2 * CELL + gap, CELL + line + gap
    sheet = Image.new("RGB", (columns * (width + gap) + gap, -(-pairs // columns) * (height + gap) + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for place, row in enumerate(rows):
        left, top = gap + place % columns * (width + gap), gap + place // columns * (height + gap)
        whole = Image.fromarray((data.whole(row, CELL)[0] * 255).round().byte().numpy())
        whole.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
        small = Image.fromarray((model_to_image(data.pictures([row], SIDES[0]))[0] * 255).round().byte().numpy())
        sheet.paste(whole, (left + (CELL - whole.width) // 2, top + (CELL - whole.height) // 2))
        sheet.paste(small.resize((CELL, CELL), Image.Resampling.NEAREST), (left + CELL + gap, top))
        said = data.all_captions(row)
        text = said[0] if said else "(no caption)"
        font = font_for(text, 13)
        pen.text((left, top + CELL + 2), cut(font, text, width), fill="black", font=font)
    sheet.save(path)
