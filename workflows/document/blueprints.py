"""A subgraph blueprint as a graph that runs: with pictures to load before it, and what it makes saved behind it.

A blueprint is a file that holds one node alone, an instance of the file's own subgraph: what ComfyUI lists among its
nodes, and what "Save as blueprint" of the editor writes. Nothing is linked to it, so that by itself it would make
nothing.
"""

from __future__ import annotations

import copy
from typing import Any

from .ui_graph import NOTES

# What feeds an input, and what takes an output, by type: class and widget values. The widget that has a value of its
# own is the node's first, so that `-s NAME=FILE` sets it by the title.
_SOURCES = {"IMAGE": ("LoadImage", ["", "image"]), "MASK": ("LoadImageMask", ["", "alpha", "image"])}
_ENDS = {
    "IMAGE": ("SaveImage", "images", ["unclip"]),
    "MASK": ("MaskPreview", "mask", []),
    "STRING": ("PreviewAny", "source", []),
    "UNCLIP_EMBED": ("UnCLIPSaveEmbedding", "embed", ["unclip/embedding"]),
}
_WIDTH, _STEP, _GAP = 320, 360, 80  # pixels on the canvas


def completed(data: dict[str, Any]) -> dict[str, Any]:
    """The saved graph `data`; of a blueprint a copy with a node for each of its ends.

    Each input without a widget gets a Load Image, each output a Save Image, titled as the input or output is called:
    `-s image=photo.png`. Inputs of types that no file holds stay open, for validation to name.
    """
    box = _only_box(data)
    if box is None:
        return data
    outputs = box.get("outputs") or []
    if not any(_kind(output) in _ENDS for output in outputs):
        return data
    data = copy.deepcopy(data)
    box = _only_box(data)
    graph = _Canvas(data, box)
    for slot, socket in enumerate(box.get("inputs") or []):
        if _kind(socket) in _SOURCES and not socket.get("widget"):
            graph.feed(slot, socket)
    for slot, output in enumerate(box["outputs"]):
        if _kind(output) in _ENDS:
            graph.take(slot, output)
    return data


def _only_box(data: dict[str, Any]) -> dict[str, Any] | None:
    """The instance that a blueprint is, or None where the file is something else."""
    subgraphs = {str(entry["id"]) for entry in (data.get("definitions") or {}).get("subgraphs") or []}
    nodes = [node for node in data["nodes"] if node["type"] not in NOTES]
    alone = len(nodes) == 1 and nodes[0]["type"] in subgraphs and not any(data.get("links") or [])
    return nodes[0] if alone and not any(entry.get("link") for entry in nodes[0].get("inputs") or []) else None


def _kind(entry: dict[str, Any]) -> str:
    return entry["type"] if isinstance(entry.get("type"), str) else ""


class _Canvas:
    """The root graph of a blueprint, to which nodes are added to the left and the right of its box."""

    def __init__(self, data: dict[str, Any], box: dict[str, Any]):
        self._data, self._box = data, box
        self._id = max((node["id"] for node in data["nodes"] if isinstance(node["id"], int)), default=0)
        self._at = {side: 0 for side in ("left", "right")}
        self._data["links"] = []

    def feed(self, slot: int, socket: dict[str, Any]) -> None:
        """Link a Load Image to an input of the box."""
        kind = socket["type"]
        class_type, values = _SOURCES[kind]
        names = ("IMAGE", "MASK") if class_type == "LoadImage" else ("MASK",)
        outputs = [{"name": name, "type": name, "links": []} for name in names]
        node = self._add("left", class_type, str(socket["name"]), values, [], outputs)
        socket["link"] = self._link(node["id"], 0, self._box["id"], slot, kind)
        outputs[0]["links"].append(socket["link"])

    def take(self, slot: int, output: dict[str, Any]) -> None:
        """Link an output of the box to a node that saves or shows it."""
        kind = output["type"]
        class_type, name, values = _ENDS[kind]
        entry = {"name": name, "type": kind, "link": None}
        node = self._add("right", class_type, f"save {output.get('name', kind)}", values, [entry], [])
        entry["link"] = self._link(self._box["id"], slot, node["id"], 0, kind)
        output["links"] = [entry["link"]]

    def _add(self, side: str, class_type: str, title: str, values: list, inputs: list, outputs: list) -> dict[str, Any]:
        self._id += 1
        x, y = _pair(self._box.get("pos"), 0.0)
        x += -(_WIDTH + _GAP) if side == "left" else _pair(self._box.get("size"), _WIDTH)[0] + _GAP
        node = {
            "id": self._id,
            "type": class_type,
            "pos": [x, y + _STEP * self._at[side]],
            "size": [_WIDTH, _STEP - _GAP],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": inputs,
            "outputs": outputs,
            "title": title,
            "properties": {},
            "widgets_values": list(values),
        }
        self._at[side] += 1
        self._data["nodes"].append(node)
        self._data["last_node_id"] = self._id
        return node

    def _link(self, origin: int, slot: int, target: int, into: int, kind: str) -> int:
        number = len(self._data["links"]) + 1
        self._data["links"].append([number, origin, slot, target, into, kind])
        self._data["last_link_id"] = number
        return number


def _pair(value: Any, otherwise: float) -> list[float]:
    """A position or size, which old files have as {"0": x, "1": y}."""
    numbers = list(value.values()) if isinstance(value, dict) else value
    sound = isinstance(numbers, list) and len(numbers) >= 2 and all(isinstance(n, int | float) for n in numbers[:2])
    return numbers[:2] if sound else [otherwise, otherwise]
