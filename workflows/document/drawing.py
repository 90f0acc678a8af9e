"""A graph drawn as text, one node a line with the wires beside it, and as Mermaid."""

from __future__ import annotations

import json
from typing import Any

from ...unclip_core.texts import one_line, printable
from .graph import Prompt, is_link, links_of, node_title, origins_among, topological_order

_TEXT_WIDTH = 48
MAX_DRAWN = 2_000  # nodes


def as_text(prompt: Prompt, classes: dict[str, type]) -> str:
    """Every node on a line, origins first; the lines on the left are the wires, from a node down to its users.

    Raises ValueError for a graph of more nodes than anybody reads as text: each line shows every wire that passes.
    """
    if len(prompt) > MAX_DRAWN:
        raise ValueError(f"has {len(prompt):,} nodes, and at most {MAX_DRAWN:,} are drawn as text; give --mermaid")
    order = _order(prompt)
    lanes = _lanes(prompt, order)
    left = [_marks(prompt, order, lanes, index) for index in range(len(order))]
    width = max(map(len, left), default=0)
    lines = []
    for index, node_id in enumerate(order):
        node = prompt[node_id]
        title, class_type = node_title(node, classes), str(node.get("class_type"))
        named = title if title == class_type else f"{title} ({class_type})"
        lines.append(f"{left[index].ljust(width)}  {one_line(f'{node_id} {named}')}")
        details = [_linked(name, link, prompt, classes) for name, link in links_of(node).items()]
        if constants := _constants(node):
            details.append("  ".join(f"{name}={_short(value)}" for name, value in constants.items()))
        wires = "".join("│ " if holder is not None else "  " for holder in _below(lanes, index))
        lines += [f"{wires.ljust(width)}      {one_line(detail)}" for detail in details]
    return "\n".join(lines)


def as_mermaid(prompt: Prompt, classes: dict[str, type]) -> str:
    """The graph as a Mermaid flowchart: boxes with title and class, arrows named after the outputs."""
    names = {node_id: f"n{number}" for number, node_id in enumerate(prompt, 1)}  # ids may hold any character
    lines = ["flowchart LR"]
    for node_id, node in prompt.items():
        title, class_type = node_title(node, classes), str(node.get("class_type"))
        label = (
            _escaped(title) if title == class_type else f"{_escaped(title)}<br/><small>{_escaped(class_type)}</small>"
        )
        shape = ("([", "])") if getattr(classes.get(class_type), "OUTPUT_NODE", False) else ("[", "]")
        lines.append(f'    {names[node_id]}{shape[0]}"{label}"{shape[1]}')
    for node_id, node in prompt.items():
        for origin, slot in links_of(node).values():
            if origin in names:
                output = _escaped(_output_name(prompt[origin], slot, classes))
                lines.append(f'    {names[origin]} -->|"{output}"| {names[node_id]}')
    return "\n".join(lines)


def _order(prompt: Prompt) -> list[str]:
    """Every id, origins before users as far as there is no cycle."""
    order, _ = topological_order(origins_among(prompt, prompt))
    return list(dict.fromkeys([*order, *prompt]))


def _lanes(prompt: Prompt, order: list[str]) -> list[tuple[list[str | None], int]]:
    """Per node: the lanes above it, each held by the node whose wire runs there, and the lane of the node itself."""
    place = {node_id: index for index, node_id in enumerate(order)}
    last = {node_id: -1 for node_id in order}
    for node_id in order:
        for origin, _ in links_of(prompt[node_id]).values():
            if origin in last:
                last[origin] = max(last[origin], place[node_id])
    lanes: list[str | None] = []
    found = []
    for index, node_id in enumerate(order):
        above = list(lanes)
        for lane, holder in enumerate(lanes):
            if holder is not None and last[holder] <= index:
                lanes[lane] = None
        feeding = {origin for origin, _ in links_of(prompt[node_id]).values()}
        right = max((lane for lane, holder in enumerate(above) if holder in feeding), default=-1)
        own = next((lane for lane in range(right + 1, len(above)) if above[lane] is None), len(above))
        lanes += [None] * (own + 1 - len(lanes))
        lanes[own] = node_id if last[node_id] > index else None
        while lanes and lanes[-1] is None:
            lanes.pop()
        found.append((above, own))
    return found


def _marks(prompt: Prompt, order: list[str], lanes: list[tuple[list[str | None], int]], index: int) -> str:
    """The marks to the left of a node: ● is the node, ├ ┴ ╰ feed it, │ and ┿ pass by."""
    above, own = lanes[index]
    below = _below(lanes, index)
    feeding = {origin for origin, _ in links_of(prompt[order[index]]).values()}
    first = next((lane for lane, holder in enumerate(above) if holder in feeding), own)
    row = ""
    for lane in range(max(own + 1, len(above))):
        holder = above[lane] if lane < len(above) else None
        goes_on = lane < len(below) and holder is not None and below[lane] == holder
        inside = first < lane < own
        if lane == own:
            row += "●"
        elif holder in feeding and holder is not None:
            row += ("┼" if goes_on else "┴") if inside else ("├" if goes_on else "╰")
        elif holder is not None:
            row += "┿" if inside else "│"
        else:
            row += "─" if inside else " "
        row += "─" if first <= lane < own else " "
    return row.rstrip()


def _below(lanes: list[tuple[list[str | None], int]], index: int) -> list[str | None]:
    """The lanes that run on under a node's line."""
    return lanes[index + 1][0] if index + 1 < len(lanes) else []


def _linked(name: str, link: tuple[str, int], prompt: Prompt, classes: dict[str, type]) -> str:
    origin, slot = link
    if origin not in prompt:
        return f"{name} ← {origin}, which is not in the graph"
    return f"{name} ← {_output_name(prompt[origin], slot, classes)} of {origin} {node_title(prompt[origin], classes)}"


def _output_name(node: dict, slot: int, classes: dict[str, type]) -> str:
    node_class = classes.get(node.get("class_type"))
    names = getattr(node_class, "RETURN_NAMES", None) or getattr(node_class, "RETURN_TYPES", ())
    return str(names[slot]) if 0 <= slot < len(names) else str(slot)


def _constants(node: dict) -> dict[str, Any]:
    inputs = node.get("inputs")
    return {name: value for name, value in inputs.items() if not is_link(value)} if isinstance(inputs, dict) else {}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _TEXT_WIDTH else text[: _TEXT_WIDTH - 1] + "…"


def _escaped(text: str) -> str:
    """Text inside a Mermaid label: nothing in it may end the label, become markup or an entity."""
    kept = printable(text if len(text) <= _TEXT_WIDTH else text[: _TEXT_WIDTH - 1] + "…")
    codes = {'"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;", "#": "#35;", "`": "#96;"}
    return "".join(codes.get(letter, letter) for letter in kept)
