"""Draws the subgraph blueprints from the shipped graphs: one box each, with the inputs and widgets that matter.

    python tests/tools/blueprints.py            # subgraphs/*.json; prints what changed

ComfyUI from 0.8 lists a pack's subgraphs/*.json among the nodes, a file each, under the file's name. The page wants a
file that holds a single node, an instance of the file's own subgraph. What is inside stands in the shipped graph that a
box is made of: change it there, and run this again.
"""

from __future__ import annotations

import copy
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layout import CLASSES, ROOT, written

from comfyui_unclip.workflows.document.schema import node_schema

INPUT, OUTPUT = -10, -20  # a subgraph's own ends, in its links


@dataclass(frozen=True)
class Box:
    """graph: in workflows/. inside: titles of its nodes. inputs: name -> "title.input" of each that the box feeds;
    widgets are promoted by their values. output: title of the node whose picture comes out; where the graph shows it at
    64 px, an Upsample 256 of the box's own (`sharpened`) follows."""

    name: str
    graph: str
    text: str
    inside: tuple[str, ...]
    inputs: dict[str, tuple[str, ...]]
    output: str
    sharpened: bool = False


SEEN, REST = "what CLIP sees (z_i)", "all the rest (x_T)"
BOXES = (
    Box(
        "Text to picture (unCLIP)",
        "text_to_image",
        "A caption's picture, by every stage of unCLIP: prior, decoder, two upsamplers.",
        ("model", "prompt", "prior", "decoder", "upsample256", "upsample1024"),
        {
            "text": ("prompt.text",),
            "model_name": ("model.model_name",),
            "idea_seed": ("prior.seed",),
            "painting_seed": ("decoder.seed",),
            "count": ("decoder.count",),
        },
        "upsample1024",
    ),
    Box(
        "Vary a picture (unCLIP)",
        "image_variations",
        "Paints a picture again from what CLIP sees in it. eta: how far the rest may stray, 0 gives the picture back.",
        ("model", SEEN, REST, "decoder"),
        {
            "image": (f"{SEEN}.image", f"{REST}.image"),
            "model_name": ("model.model_name",),
            "eta": ("decoder.eta",),
            "seed": ("decoder.seed",),
            "count": ("decoder.count",),
        },
        "decoder",
        sharpened=True,
    ),
    Box(
        "Blend two pictures (unCLIP)",
        "interpolate_one_noise",
        "Pictures between what CLIP sees in two, painted from one noise. start and end: 0 is the first, 1 the second.",
        (
            "model",
            "first, seen",
            "second, seen",
            "between the embeddings",
            "one noise for all",
            "decoder",
            "upsample256",
        ),
        {
            "first": ("first, seen.image",),
            "second": ("second, seen.image",),
            "model_name": ("model.model_name",),
            "start": ("between the embeddings.start",),
            "end": ("between the embeddings.end",),
            "frames": ("between the embeddings.frames",),
            "seed": ("one noise for all.seed",),
        },
        "upsample256",
    ),
    Box(
        "Change by words (unCLIP)",
        "text_diff",
        "Turns a picture from what it is to what the words say; what they do not name stays. end_theta: how far.",
        ("model", "what it is", "prompt", SEEN, REST, "turn toward the difference", "decoder", "upsample256"),
        {
            "image": (f"{SEEN}.image", f"{REST}.image"),
            "what_it_is": ("what it is.text",),
            "text": ("prompt.text",),
            "model_name": ("model.model_name",),
            "end_theta": ("turn toward the difference.end_theta",),
            "frames": ("turn toward the difference.frames",),
        },
        "upsample256",
    ),
)


def draw(box: Box) -> dict[str, Any]:
    """The blueprint's file."""
    graph = _read(box.graph)
    inside, last_title = box.inside, box.output
    if box.sharpened:
        last_title = _sharpen(graph, box.output)
        inside += (last_title,)
    nodes = {node["title"]: copy.deepcopy(node) for node in graph["nodes"] if node["title"] in inside}
    kept = {node["id"] for node in nodes.values()}
    links = [
        dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))
        for link in graph["links"]
        if link[1] in kept and link[3] in kept
    ]
    old = {link["id"] for link in links}
    by_id = {node["id"]: node for node in nodes.values()}
    entries = {link["id"]: by_id[link["target_id"]]["inputs"][link["target_slot"]]["name"] for link in links}
    for node in nodes.values():
        node["inputs"] = _all_inputs(node)
        for socket in node["inputs"]:
            socket["link"] = socket["link"] if socket["link"] in old else None
        for output in node["outputs"]:
            output["links"] = [link for link in output["links"] or [] if link in old]
    for link in links:
        link["target_slot"] = _socket(by_id[link["target_id"]], entries[link["id"]])[0]
    last = max(old)
    left, top = min(node["pos"][0] for node in nodes.values()), min(node["pos"][1] for node in nodes.values())
    right = max(node["pos"][0] + node["size"][0] for node in nodes.values())
    inputs, sockets, values, widgets = [], [], [], []
    for place, (name, ends) in enumerate(box.inputs.items()):
        kind, own = "", []
        for end in ends:
            title, _, entry = end.rpartition(".")
            slot, socket, is_widget = _socket(nodes[title], entry)
            last += 1
            kind, socket["link"] = socket["type"], last
            own.append(last)
            links.append(_link(last, INPUT, place, nodes[title]["id"], slot, kind))
        inputs.append(
            {"id": _id(box, name), "name": name, "type": kind, "linkIds": own, "pos": [left - 80, 100 + 20 * place]}
        )
        sockets.append({"name": name, "type": kind, "link": None} | ({"widget": {"name": name}} if is_widget else {}))
        if is_widget:
            widgets.append(["-1", name])
            values.append(_value(nodes[title], entry))
    end, last = nodes[last_title], last + 1
    end["outputs"][0]["links"].append(last)
    links.append(_link(last, end["id"], 0, OUTPUT, 0, "IMAGE"))
    inner = _id(box, "subgraph")
    output = {"id": _id(box, "IMAGE"), "name": "IMAGE", "type": "IMAGE", "linkIds": [last], "pos": [right + 80, 120]}
    definition = {
        "id": inner,
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": max(kept), "lastLinkId": last, "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": box.name,
        "description": box.text,
        "inputNode": {"id": INPUT, "bounding": [left - 200, top, 120, 40 + 20 * len(inputs)]},
        "outputNode": {"id": OUTPUT, "bounding": [right + 60, top, 120, 60]},
        "inputs": inputs,
        "outputs": [output],
        "widgets": [],
        "nodes": list(nodes.values()),
        "groups": [],
        "links": links,
        "extra": {},
    }
    instance = {
        "id": 1,
        "type": inner,
        "pos": [100, 100],
        "size": [400, 80 + 26 * len(sockets) + 80 * sum(name in ("text", "what_it_is") for name in box.inputs)],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": sockets,
        "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": []}],
        "title": box.name,
        "properties": {"proxyWidgets": widgets},
        "widgets_values": values,
    }
    return {
        "id": _id(box, "file"),
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [instance],
        "links": [],
        "groups": [],
        "definitions": {"subgraphs": [definition]},
        "config": {},
        "extra": {"BlueprintDescription": box.text, "BlueprintSearchAliases": ["unclip", "dall-e"]},
        "version": 0.4,
    }


def _read(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))


def _sharpen(graph: dict[str, Any], output: str) -> str:
    """Put the Upsample 256 of text_to_image behind a node of the graph. -> its title"""
    title = "upsample256"
    node = next(node for node in _read("text_to_image")["nodes"] if node["title"] == title)
    by_title = {entry["title"]: entry for entry in graph["nodes"]}
    node["id"], node["outputs"][0]["links"] = graph["last_node_id"] + 1, []
    node["pos"] = [by_title[output]["pos"][0] + by_title[output]["size"][0] + 40, by_title[output]["pos"][1]]
    for source, name, entry in (("model", "UPSAMPLER 256", "upsampler"), (output, "IMAGE", "image")):
        slot, out = next(pair for pair in enumerate(by_title[source]["outputs"]) if pair[1]["name"] == name)
        into = next(place for place, socket in enumerate(node["inputs"]) if socket["name"] == entry)
        number = graph["last_link_id"] = graph["last_link_id"] + 1
        graph["links"].append([number, by_title[source]["id"], slot, node["id"], into, out["type"]])
        out["links"] = [*(out["links"] or []), number]
        node["inputs"][into]["link"] = number
    graph["nodes"].append(node)
    return title


def _id(box: Box, part: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"comfyui-unclip/subgraphs/{box.graph}/{part}"))


def _link(number: int, origin: int, out: int, target: int, into: int, kind: str) -> dict[str, Any]:
    return dict(id=number, origin_id=origin, origin_slot=out, target_id=target, target_slot=into, type=kind)


def _all_inputs(node: dict[str, Any]) -> list[dict[str, Any]]:
    """Sockets, then widgets, as the page makes them. With fewer, frontend 1.35.9 takes the place of a link for that of
    another input, and feeds `steps` with a seed."""
    saved = {socket["name"]: socket for socket in node["inputs"]}
    sockets, widgets = [], []
    for spec in node_schema(CLASSES[node["type"]]).inputs.values():
        kind = "COMBO" if isinstance(spec.type, (list, tuple)) else spec.type
        entry = saved.get(spec.name) or {"name": spec.name, "type": kind, "link": None}
        (widgets if spec.is_widget else sockets).append(
            entry | ({"widget": {"name": spec.name}} if spec.is_widget else {})
        )
    return sockets + widgets


def _socket(node: dict[str, Any], name: str) -> tuple[int, dict[str, Any], bool]:
    """Place and entry of a node's input, and whether it is a widget."""
    slot = next(slot for slot, socket in enumerate(node["inputs"]) if socket["name"] == name)
    return slot, node["inputs"][slot], "widget" in node["inputs"][slot]


def _value(node: dict[str, Any], name: str) -> Any:
    """What a widget of a saved node holds."""
    place = 0
    for spec in node_schema(CLASSES[node["type"]]).inputs.values():
        if spec.name == name:
            return node["widgets_values"][place]
        place += (1 + spec.extra_widgets) if spec.is_widget else 0
    raise ValueError(f"{node['type']} has no widget {name}")


def files() -> dict[Path, str]:
    """What belongs into each file of subgraphs/."""
    return {ROOT / "subgraphs" / f"{box.name}.json": written(draw(box)) for box in BOXES}


def main() -> None:
    for path, text in files().items():
        if not path.is_file() or path.read_text("utf-8") != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
