"""Lays saved graphs out for a person, and says what is wrong with a layout.

    python tests/tools/layout.py                # every workflows/*.json; prints what changed
    python tests/tools/layout.py my.json        # one of yours
    python tests/tools/layout.py --check        # changes nothing, prints the faults

Groups stand side by side in the order of their numbers, with the nodes that they held; some below one another where
the whole could not be read as it opens otherwise. A node is as high as its widgets in either of the editor's two ways
to draw nodes; one that shows its result keeps the height that it was saved with. A node that shows a preview while it
samples stands last in its column: previews are off by default in ComfyUI, and where they are on the node grows
downwards over nothing. The opening view is the whole graph in a window of 1600 x 1000, or its upper left where the
whole could not be read. Colours are for the editor's dark themes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

from comfyui_unclip.workflows.document.schema import node_classes, node_schema

ROOT = Path(__file__).resolve().parents[2]
COLOURS = ("#8fc7ee", "#9fd49f", "#f2b487", "#dca6df", "#c3c3ea")  # groups from left to right
CANVAS = ("#141414", "#222222")  # the editor's backgrounds: newest and older dark themes
CONTRAST = 3.0  # WCAG's least for large letters
WINDOW = (1600, 1000)
BARS = (72, 96, 16, 64)  # the page's own bars over the canvas: left, top, right, bottom
ROOM = (WINDOW[0] - BARS[0] - BARS[2], WINDOW[1] - BARS[1] - BARS[3])  # between them
TITLE, FONT = 30, 24  # pixels: a node's title above its place, a group's letters
TOP, PAD, BETWEEN = 80, 20, 40  # first node below the group's edge, beside nodes in a group, groups
GAP = 26  # below a node: ComfyUI writes the pack's name there in "Nodes 2.0"
BELOW = 24  # between a group and one below it
WIDTH, NARROW, NOTE = 320, 290, 400
ROW, LINK, FIELD = 24, 20, 54  # heights of a widget, a socket, and the least of a text field
VUE_ROW, VUE_LINE, VUE_FIELD = 28, 36, 68  # of widgets in "Nodes 2.0": a number or list, a line of text, a text field
PREVIEW = 320  # pixels that a preview takes below its node
READABLE = 0.572  # zoom below which the editor writes nothing on nodes: letters of 14 px would have less than 8
NOTE_COLOURS = ("#432", "#332a1a")  # a note's title and paper: "Nodes 2.0" writes on it in grey
SLACK = 60  # pixels that a node may be higher than it must be
# They show a preview while they sample, and only where previews are on.
SAMPLERS = ("UnCLIPDecoderSample", "UnCLIPDDIMInvert", "UnCLIPUpsample256", "UnCLIPUpsample1024", "KSampler")
# They show what they made, always.
SHOWS = ("SaveImage", "PreviewImage", "UnCLIPSaveAnimation", "UnCLIPZeroShot", "UnCLIPRankByCLIP")
NOTES = ("MarkdownNote", "Note")
TEXTS = {"UnCLIPTextEncode": 1, "CLIPTextEncode": 1, "UnCLIPImageGrid": 2, "UnCLIPZeroShot": 1}  # text fields
Graph = dict[str, Any]
CLASSES = node_classes()


def width_of(text: str, size: int = FONT) -> float:
    """Pixels of a group's title, rather too many than too few: the editor's font differs from machine to machine."""
    return sum((1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.53) * size for letter in text)


def least_height(node: Graph) -> int:
    """Pixels of a node with every socket and widget, as the editor computes them."""
    texts = TEXTS.get(node["type"], 0)
    sockets = [entry for entry in node.get("inputs", []) if "widget" not in entry]
    rows = max(0, _values(node) - texts)
    links = LINK * max(len(sockets), len(node.get("outputs", [])))
    lines, controls = _lines_and_controls(node)
    vue = VUE_ROW * (rows - controls) + (VUE_LINE - VUE_ROW) * lines + VUE_FIELD * texts + 14
    return links + max(ROW * rows + FIELD * texts + (14 if rows + texts else 6), vue)


def _lines_and_controls(node: Graph) -> tuple[int, int]:
    """How many widgets are lines of text, and how many stand inside another one in "Nodes 2.0"."""
    if node["type"] not in CLASSES:
        return 0, 0
    widgets = [spec for spec in node_schema(CLASSES[node["type"]]).inputs.values() if spec.is_widget]
    lines = [spec for spec in widgets if spec.type == "STRING" and not spec.options.get("multiline")]
    return len(lines), sum(spec.extra_widgets for spec in widgets)


def _values(node: Graph) -> int:
    """How many widgets a node has, those that came after it was saved too."""
    saved = len(node.get("widgets_values") or [])
    if node["type"] not in CLASSES:
        return saved
    widgets = [spec for spec in node_schema(CLASSES[node["type"]]).inputs.values() if spec.is_widget]
    return max(saved, sum(1 + spec.extra_widgets for spec in widgets))


def note_height(text: str, width: int = NOTE) -> int:
    """Pixels that a note's text takes, as measured in the editor's page: letters of 10 px, 14 px in headings."""
    height, code = 0, False
    for line in text.splitlines():
        plain = line.lstrip("#-* ").replace("*", "").replace("`", "")
        wide = any(unicodedata.east_asian_width(letter) in "WF" for letter in plain)
        if not plain:
            height += 10 if not line else 2
            continue
        size, leading = (14, 19) if line.startswith("#") else (10, 15 if wide else 12)
        height += 22 if line.startswith("    ") and not code else 0  # around a block of code
        code = line.startswith("    ")
        room = width - 40 - (30 if line.startswith("- ") else 0)
        height += leading * -(-round(width_of(plain, size) * 0.89) // room)
    return round(1.08 * height) + 36


def contrast(colour: str, canvas: str) -> float:
    """WCAG's ratio of a group's title to the band behind it: the same colour, twice a quarter over the canvas."""
    letters, below = (_channels(text) for text in (colour, canvas))
    band = [ink * 0.4375 + paper * 0.5625 for ink, paper in zip(letters, below, strict=True)]
    high, low = sorted((_luminance(letters), _luminance(band)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _channels(colour: str) -> list[float]:
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    return [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]


def _luminance(channels: list[float]) -> float:
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def holders(graph: Graph, node: Graph) -> list[Graph]:
    """The groups in which a node's upper left corner lies."""
    x, y = node["pos"]
    return [group for group in graph["groups"] if _inside(group["bounding"], x, y)]


def _inside(box: list[float], x: float, y: float) -> bool:
    return box[0] <= x <= box[0] + box[2] and box[1] <= y <= box[1] + box[3]


def _box(node: Graph) -> tuple[float, float, float, float]:
    """Left, top, right, bottom with the title."""
    height = 0 if node["flags"].get("collapsed") else node["size"][1]
    x, y = node["pos"]
    return x, y - TITLE, x + node["size"][0], y + height


def extent(graph: Graph) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of everything."""
    boxes = [_box(node) for node in graph["nodes"]]
    boxes += [(x, y, x + width, y + height) for x, y, width, height in (g["bounding"] for g in graph["groups"])]
    return tuple(choose(box[side] for box in boxes) for side, choose in enumerate((min, min, max, max)))


def tidy(graph: Graph) -> Graph:
    """Lay a graph out anew, in place; laying it out twice changes nothing more."""
    notes = [node for node in graph["nodes"] if node["type"] in NOTES]
    for note in notes:
        note["size"] = [NOTE, note_height(note["widgets_values"][0])]
        note["color"], note["bgcolor"] = NOTE_COLOURS
    groups = sorted(graph["groups"], key=_order)
    held = {
        id(group): [node for node in graph["nodes"] if node["type"] not in NOTES and group in holders(graph, node)]
        for group in groups
    }
    for number, group in enumerate(groups):
        group |= {"color": COLOURS[number % len(COLOURS)], "font_size": FONT}
    things = [*notes, *groups]
    sizes = [_put(thing, held, 0, 0) for thing in things]
    top = 0
    for row in _arrange(sizes):
        left, lowest = 60, top
        for column in row:
            wide, y = 0, top
            for place in column:
                wide, high, _ = max(wide, sizes[place][0]), *_put(things[place], held, left, y)[1:]
                lowest = max(lowest, y + high + sizes[place][2])
                y += high + sizes[place][2] + BELOW
            left += wide + BETWEEN
        top = lowest + BETWEEN
    graph["extra"] |= {"ds": opening(graph)}
    return graph


def _order(group: Graph) -> tuple[int, float]:
    """Its number, then its place."""
    number = re.match(r"(\d+) · ", group["title"])
    return int(number[1]) if number else 0, group["bounding"][0]


def _put(thing: Graph, held: dict[int, list[Graph]], left: int, top: int) -> tuple[int, int, int]:
    """Put a note, or a group with its nodes, there. -> its width and height, and what previews may take below it."""
    if thing.get("type") in NOTES:
        thing["pos"] = [left, top + TOP]
        return thing["size"][0], TOP + thing["size"][1], 0
    nodes = held[id(thing)]
    columns = _columns(sorted(nodes, key=lambda node: (node["type"] in SAMPLERS, *_reading(node))))
    x, bottom, deepest = left + PAD, top, top
    least = 10 * -(-round(width_of(thing["title"]) + 2 * PAD) // 10)  # the title's
    for column in columns:
        width = max(_width(node, len(columns)) for node in column)
        width = max(width, least - 2 * PAD) if len(columns) == 1 else width
        y = top + TOP
        for node in column:
            node["pos"], node["size"] = [x, y], [width, _height(node)]
            y = _box(node)[3] + GAP + TITLE
        end = y - GAP - TITLE
        deepest = max(deepest, end + (PREVIEW if column[-1]["type"] in SAMPLERS else 0))
        bottom, x = max(bottom, end), x + width + PAD
    wide = max(x - left, least)
    thing["bounding"] = [left, top, wide, bottom + GAP - top]
    return wide, bottom + GAP - top, max(0, deepest - bottom - GAP)


def _arrange(sizes: list[tuple[int, int, int]]) -> list[list[list[int]]]:
    """Rows of columns of places in `sizes` (width, height, what previews take below).

    One row of columns of one, unless it is too wide to be read as it opens: then as few as need be stand below one
    another. What is too small even so is as large as it can be, in two rows if they help.
    """
    count = len(sizes)
    flat = [[[place] for place in range(count)]]
    if _zoom(flat, sizes) >= READABLE:
        return flat
    found = []
    for breaks in itertools.product(("column", "below"), repeat=count - 1):
        columns = [[0]]
        for place, kind in enumerate(breaks, 1):
            if kind == "column":
                columns.append([place])
            else:
                columns[-1].append(place)
        found += [[columns[:cut], columns[cut:]] if cut else [columns] for cut in range(len(columns))]

    def rank(rows: list[list[list[int]]]) -> tuple[float, ...]:
        zoom = _zoom(rows, sizes)
        return min(zoom, READABLE), -len(rows), sum(map(len, rows)), zoom

    return max(found, key=rank)


def _zoom(rows: list[list[list[int]]], sizes: list[tuple[int, int, int]]) -> float:
    """The editor's zoom at which all of it is in view."""
    width, height = 0, -BETWEEN
    for row in rows:
        width = max(width, sum(max(sizes[place][0] for place in column) + BETWEEN for column in row) - BETWEEN)
        deepest = [sum(sum(sizes[place][1:]) + BELOW for place in column) - BELOW for column in row]
        if row is rows[-1]:  # previews may grow over nothing
            deepest = [deep - sizes[column[-1]][2] for deep, column in zip(deepest, row, strict=True)]
        height += max(deepest) + BETWEEN
    return min(ROOM[0] / width, ROOM[1] / height)


def _reading(node: Graph) -> tuple[float, float]:
    return node["pos"][0], node["pos"][1]


def _columns(nodes: list[Graph]) -> list[list[Graph]]:
    """A column for each sampler, which ends it; what else there is stands above the first."""
    others = [node for node in nodes if node["type"] not in SAMPLERS]
    samplers = [node for node in nodes if node["type"] in SAMPLERS]
    if not samplers:
        return [others]
    return [[*others, samplers[0]], *([sampler] for sampler in samplers[1:])]


def _width(node: Graph, columns: int) -> int:
    if node["type"] in ("SaveImage", "UnCLIPSaveAnimation", "UnCLIPImageGrid", "PreviewImage"):
        return max(WIDTH, node["size"][0])
    return NARROW if columns > 1 else WIDTH


def _height(node: Graph) -> int:
    least, texts = least_height(node), TEXTS.get(node["type"], 0)
    if node["type"] in SHOWS:
        return max(least, node["size"][1])
    return least + (SLACK - 10 if texts == 1 else 0)


def opening(graph: Graph) -> dict[str, Any]:
    """The editor's zoom and place that show everything between the page's bars; of what could not be read then, the
    upper left, where a person begins."""
    left, top, right, bottom = extent(graph)
    width, height = right - left, bottom - top
    whole = min(ROOM[0] / width, ROOM[1] / height, 1.0)
    scale = max(int(1000 * whole) / 1000, READABLE)
    free = [max(0.0, room - size * scale) / 2 for room, size in zip(ROOM, (width, height), strict=True)]
    x, y = (BARS[0] + free[0]) / scale - left, (BARS[1] + free[1]) / scale - top
    return {"scale": scale, "offset": [round(x), round(y)]}


def faults(graph: Graph) -> list[str]:
    """What a person would stumble over, one line each."""
    groups, nodes = graph["groups"], graph["nodes"]
    found = []
    for group in groups:
        title, (x, y, width, height) = group["title"], group["bounding"]
        if not title.strip():
            found.append(f"a group at {x}, {y} has no name")
        if width_of(title, group["font_size"]) + PAD > width:
            found.append(f"group {title!r}: its title is wider than its {width} px")
        least = min(contrast(group["color"], canvas) for canvas in CANVAS)
        if least < CONTRAST:
            found.append(f"group {title!r}: contrast {least:.2f} of its title, {CONTRAST} needed")
        for other in groups:
            a, b, c, d = other["bounding"]
            if other is not group and x < a + c and a < x + width and y < b + d and b < y + height:
                found.append(f"groups {title!r} and {other['title']!r} overlap")
    for node in nodes:
        name, box = node.get("title") or node["type"], _box(node)
        if node["type"] in NOTES:
            found += _note_faults(node, name)
            continue
        held = holders(graph, node)
        if len(held) != 1:
            found.append(f"{name}: in {len(held)} groups")
        for x, y, width, height in (group["bounding"] for group in held):
            if box[0] < x or box[1] < y or box[2] > x + width or box[3] > y + height:
                found.append(f"{name}: sticks out of its group")
        if node["type"] not in SHOWS and node["size"][1] > least_height(node) + SLACK:
            found.append(f"{name}: {node['size'][1] - least_height(node)} px of it are empty")
        for other in nodes:
            if other is not node and other["id"] > node["id"] and _overlap(box, _box(other)):
                found.append(f"{name} and {other.get('title')}: one lies over the other")
            beside = _box(other)[0] >= box[2] or box[0] >= _box(other)[2] or other["pos"][1] <= node["pos"][1]
            near = not beside and _box(other)[1] < box[3] + PREVIEW
            if node["type"] in SAMPLERS and near and other["type"] not in NOTES:
                found.append(f"{name}: its preview would lie over {other.get('title')}")
    view, (left, top, right, bottom) = graph["extra"]["ds"], extent(graph)
    seen = [(value + view["offset"][side % 2]) * view["scale"] for side, value in enumerate((left, top, right, bottom))]
    limits = (BARS[0], BARS[1], WINDOW[0] - BARS[2], WINDOW[1] - BARS[3])
    cut = view["scale"] > READABLE and (seen[2] > limits[2] + 1 or seen[3] > limits[3] + 1)
    if seen[0] < limits[0] - 1 or seen[1] < limits[1] - 1 or cut:
        found.append(f"the opening view shows {[round(value) for value in seen]} px of {limits}")
    if view["scale"] < READABLE:
        found.append(f"the opening view writes nothing on nodes at {view['scale']}, {READABLE} needed")
    return found


def _note_faults(node: Graph, name: str) -> list[str]:
    needed, height = note_height(node["widgets_values"][0], node["size"][0]), node["size"][1]
    if height < needed:
        return [f"{name}: {height} px high, its text needs {needed}"]
    return [f"{name}: more than a third of it is empty"] if height > 1.5 * needed else []


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def written(graph: Graph) -> str:
    """A graph as its file's text."""
    return json.dumps(graph, ensure_ascii=False, indent=2) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", nargs="*", type=Path, help="none: every one in workflows/")
    parser.add_argument("--check", action="store_true", help="print the faults, change nothing")
    options = parser.parse_args()
    wrong = 0
    for path in options.graphs or sorted((ROOT / "workflows").glob("*.json")):
        text = path.read_text("utf-8")
        graph = json.loads(text)
        if not options.check and written(tidy(graph)) != text:
            path.write_text(written(graph), "utf-8")
            print(path.name)
        for fault in faults(graph):
            wrong += 1
            print(f"{path.name}: {fault}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
