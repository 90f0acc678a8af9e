"""Small graphs for what the workflow corpus cannot tell apart, and the toy classes that they use.

The editor's own exports of them lie in tests/data/editor_cases.json: `python tests/tools/editor_references.py --cases`.
A case is written as {id: (type, {input: link source}, widget values, more fields)}, a source being "id.slot".
"""

from typing import Any

INT, TEXT = ["INT", {"default": 1, "min": 0, "max": 1000}], ["STRING", {"default": ""}]
PICTURES = [["a.png", "b.png"], {"image_upload": True}]
_WIDTHS = {"required": {"width": INT, "height": INT, "like": ["IMAGE", {}]}}
_SIZES = {"options": [{"key": "by", "inputs": {"required": {"factor": INT}}}, {"key": "to", "inputs": _WIDTHS}]}
TOYS: dict[str, tuple] = {  # name -> (required inputs, output types, optional inputs?)
    "Number": ({"value": INT}, ["INT"]),
    "Text": ({"text": TEXT}, ["STRING"]),
    "Noise": ({"seed": INT, "mode": [["soft", "hard"], {}], "scale": ["FLOAT", {}]}, ["INT"]),
    "Plain": ({"seed": ["INT", {"control_after_generate": False}], "on": ["BOOLEAN", {}]}, ["INT"]),
    "Picked": ({"pick": [["x", "y"], {"control_after_generate": True}], "scale": ["FLOAT", {}]}, ["INT"]),
    "Wave": ({"rate": ["FLOAT", {"control_after_generate": True}], "count": INT}, ["INT"]),
    "Add": ({"a": ["INT", {"forceInput": True}], "b": INT, "c": INT}, ["INT"]),
    "Mask": ({"image": PICTURES, "channel": [["alpha", "red"], {}]}, ["MASK"]),
    "Picture": ({"image": PICTURES}, ["IMAGE", "MASK"], {"size": INT}),
    "Blend": ({"one": ["IMAGE", {}], "two": ["IMAGE", {}], "mask": ["MASK", {}]}, ["IMAGE", "MASK"]),
    "Either": ({"mask": ["MASK", {}], "any": ["IMAGE,MASK", {}]}, ["IMAGE"]),
    "Anything": ({"x": ["MASK", {}], "y": ["IMAGE", {}]}, ["*"]),
    "Resize": ({"size": ["COMFY_DYNAMICCOMBO_V3", _SIZES], "scale": ["FLOAT", {}]}, ["IMAGE"]),
    "Colors": ({"names": [["r", "g"], {"multi_select": True}], "value": INT}, ["INT"]),
    "Show": ({"value": ["INT", {"forceInput": True}]}, []),
    "ShowText": ({"text": TEXT, "more": TEXT}, []),
    "ShowAny": ({"value": ["*", {}]}, []),
    "SaveLatent": ({"samples": ["INT", {"forceInput": True}], "filename_prefix": TEXT}, []),
    "Prompt": ({"text": ["STRING", {"dynamicPrompts": True, "multiline": True}]}, ["STRING"]),
    "Save": ({"images": ["IMAGE", {}]}, [], {"mask": ["MASK", {}]}),
}
SUB = "0d0c5f6e-3f4c-4b1c-9a43-2f4f7c1f2a01"
SUB2 = "0d0c5f6e-3f4c-4b1c-9a43-2f4f7c1f2a02"


def classes() -> dict[str, type]:
    """The toys as node classes, good for conversion alone."""
    return {name: _class(name, *declared) for name, declared in TOYS.items()}


def _class(name: str, required: dict, outputs: list, optional: dict | None = None) -> type:
    inputs = {"required": required, "optional": optional or {}}
    members = {"INPUT_TYPES": classmethod(lambda cls: inputs), "RETURN_TYPES": tuple(outputs)}
    return type(name, (), {**members, "OUTPUT_NODE": not outputs})


def _types(kind: str) -> tuple[dict[str, Any], list[str]]:
    """The inputs, name -> (type, is a widget), and output types of a toy or of one of the editor's virtual nodes."""
    if kind in TOYS:
        required, outputs, optional = (*TOYS[kind], {})[:3]
        return {name: _input(entry) for name, entry in {**required, **optional}.items()}, outputs
    return {"Reroute": ({"": ("*", False)}, ["*"]), "PrimitiveNode": ({}, ["INT"])}.get(kind, ({}, []))


def _input(entry: list) -> tuple[str, bool]:
    kind = "COMBO" if isinstance(entry[0], list) else entry[0]
    return kind, kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO") and not entry[1].get("forceInput")


def _level(nodes: dict, ends: tuple[list, list] = ((), ()), subs: dict | None = None) -> tuple[list, list]:
    """Nodes and links (as dicts) of one graph. `ends`: a subgraph's inputs [(name, type)] and outputs
    [(name, type, source)]; inside, "-10.k" is the source at its input k."""
    made, links = [], []
    for node_id, (kind, sources, values, *more) in nodes.items():
        inputs, outputs = (subs or {}).get(kind) or _types(kind)
        node = {"id": node_id, "type": kind, "pos": [0, 0], "size": [200, 100], "flags": {}, "order": 0, "mode": 0}
        node["inputs"], node["widgets_values"] = [], values
        for name, (type_, widget) in inputs.items():
            if widget and name not in sources:
                continue
            entry = {"name": name, "type": type_, "link": None, **({"widget": {"name": name}} if widget else {})}
            if name in sources:
                entry["link"] = len(links) + 1
                _connect(links, sources[name], node_id, len(node["inputs"]), type_)
            node["inputs"].append(entry)
        node["outputs"] = [{"name": type_, "type": type_, "links": []} for type_ in outputs]
        node["properties"] = {}
        made.append(node | (more[0] if more else {}))
    for slot, (_, type_, source) in enumerate(ends[1]):
        _connect(links, source, -20, slot, type_)
    by_id = {node["id"]: node for node in made}
    for link in links:
        if link["origin_id"] in by_id:
            by_id[link["origin_id"]]["outputs"][link["origin_slot"]]["links"].append(link["id"])
    return made, links


def _connect(links: list, source: str, target: int, slot: int, kind: str) -> None:
    origin, origin_slot = source.rsplit(".", 1)
    ends = {"origin_id": int(origin), "origin_slot": int(origin_slot), "target_id": target, "target_slot": slot}
    links.append({"id": len(links) + 1, **ends, "type": kind})


def graph(nodes: dict, *definitions: dict) -> dict:
    """A file in the editor's saved form."""
    subs = {entry["id"]: _face(entry) for entry in definitions}
    made, links = _level(nodes, subs=subs)
    order = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    data = {
        "last_node_id": 99,
        "last_link_id": 99,
        "nodes": made,
        "links": [[link[k] for k in order] for link in links],
    }
    data |= {"groups": [], "config": {}, "extra": {}, "version": 0.4}
    return data | ({"definitions": {"subgraphs": list(definitions)}} if definitions else {})


def subgraph(id_: str, nodes: dict, inputs: list, outputs: list, *inner: dict) -> dict:
    """A subgraph's definition. `inner`: those that it uses itself."""
    made, links = _level(nodes, (inputs, outputs), {entry["id"]: _face(entry) for entry in inner})
    faces = {"inputs": [], "outputs": []}
    for slot, (name, type_, *_) in enumerate(inputs):
        found = [link["id"] for link in links if link["origin_id"] == -10 and link["origin_slot"] == slot]
        faces["inputs"].append({"id": f"{id_[:-12]}1{slot:011}", "name": name, "type": type_, "linkIds": found})
    for slot, (name, type_, _) in enumerate(outputs):
        found = [link["id"] for link in links if link["target_id"] == -20 and link["target_slot"] == slot]
        faces["outputs"].append({"id": f"{id_[:-12]}2{slot:011}", "name": name, "type": type_, "linkIds": found})
    box = {"bounding": [0, 0, 100, 60]}
    state = {"lastGroupId": 0, "lastNodeId": 99, "lastLinkId": 99, "lastRerouteId": 0}
    head = {"id": id_, "version": 1, "state": state, "revision": 0, "config": {}, "name": f"sub {id_[-2:]}"}
    ends = {"inputNode": {"id": -10, **box}, "outputNode": {"id": -20, **box}}
    return {**head, **ends, **faces, "widgets": [], "nodes": made, "groups": [], "links": links, "extra": {}}


def _face(definition: dict) -> tuple[dict, list[str]]:
    inputs = {entry["name"]: (entry["type"], False) for entry in definition["inputs"]}
    return inputs, [entry["type"] for entry in definition["outputs"]]


def _text_sub(id_: str = SUB, value: str = "inner") -> dict:
    """A subgraph with one text widget promoted, used by two texts, and a number of its own."""
    nodes = {
        1: ("Text", {"text": "-10.0"}, [value]),
        2: ("ShowText", {"text": "1.0", "more": "-10.0"}, ["shadow", "second"]),
        3: ("Noise", {"seed": "-10.1"}, [5, "fixed", "hard", 0.5]),
    }
    return subgraph(id_, nodes, [("text", "STRING"), ("seed", "INT")], [("out", "INT", "3.0")])


def _sub_case(values: Any, proxies: list | None = None, **more: Any) -> dict:
    extra = {"properties": {} if proxies is None else {"proxyWidgets": proxies}, **more}
    return graph({6: (SUB, {}, values, extra), 7: ("Show", {"value": "6.0"}, [])}, _text_sub())


def _passing(inside: dict, source: str, kind: str = "IMAGE") -> dict:
    return subgraph(SUB, inside, [("one", "IMAGE"), ("mask", "MASK")], [("out", kind, source)])


def _pictures(**more: Any) -> dict:
    return {1: ("Picture", {}, ["a.png", 3, "image"]), 2: ("Picture", {}, ["b.png", 4, "image"], more)}


def _bypass(kind: str, sources: dict, out: int = 0, consumer: tuple[str, str] = ("Save", "images")) -> dict:
    nodes = {**_pictures(), 3: (kind, sources, [], {"mode": 4}), 4: (consumer[0], {consumer[1]: f"3.{out}"}, [])}
    return graph(nodes)


def _nested(outer_values: list, inner_values: list, outer_proxies: list | None, inner_proxies: list | None) -> dict:
    inner = _text_sub(SUB2)
    properties = {"properties": {"proxyWidgets": inner_proxies} if inner_proxies is not None else {}}
    nodes = {4: (SUB2, {"text": "-10.0"}, inner_values, properties)}
    outer = subgraph(SUB, nodes, [("words", "STRING")], [("out", "INT", "4.0")], inner)
    more = {"properties": {"proxyWidgets": outer_proxies} if outer_proxies is not None else {}}
    # The inner one first: frontends before 1.58 lost the values of an instance whose definition came later in the file.
    return graph({6: (SUB, {}, outer_values, more), 7: ("Show", {"value": "6.0"}, [])}, inner, outer)


def _two_instances() -> dict:
    more = {"properties": {"proxyWidgets": [["-1", "text"], ["-1", "seed"]]}}
    nodes = {6: (SUB, {}, ["first", 11], more), 8: (SUB, {}, ["second", 12], more), 7: ("Show", {"value": "8.0"}, [])}
    return graph(nodes, _text_sub())


def _inner_mode(kind: str, mode: int, instance: int = 0) -> dict:
    inside = {1: ("Blend", {"one": "-10.0", "mask": "-10.1"}, [], {"mode": mode}), 2: ("Save", {"images": "1.0"}, [])}
    nodes = {**_pictures(), 6: (SUB, {"one": "1.0", "mask": "2.1"}, [], {"mode": instance})}
    return graph({**nodes, 7: (kind, {"images": "6.0"}, [])}, _passing(inside, "1.0"))


ONE, TWO = {"one": "1.0", "two": "2.0", "mask": "1.1"}, {"two": "2.0"}
CASES: dict[str, dict] = {
    "seed with control, combo, missing value": graph({1: ("Noise", {}, [7, "randomize", "hard"])}),
    "control switched off": graph({1: ("Plain", {}, [7, True])}),
    "control on a combo and on a float": graph(
        {1: ("Picked", {}, ["y", "fixed", "", 2.5]), 2: ("Wave", {}, [1, "fixed", 9])}
    ),
    "the upload button comes last": graph(
        {1: ("Mask", {}, ["b.png", "red", "image"]), 2: ("Picture", {}, ["b.png", 7, "image"])}
    ),
    "no values at all": graph({1: ("Noise", {}, []), 2: ("Picture", {}, [])}),
    "nulls among the values": graph({1: ("Noise", {}, [None, "fixed", None, None])}),
    "list value": graph({1: ("Colors", {}, [["r", "g"], 3])}),
    "dynamic combo, its first option": graph({1: ("Resize", {}, ["by", 4, 0.5])}),
    "dynamic combo, sockets and more widgets": graph({1: ("Resize", {}, ["to", 4, 5, 0.5])}),
    "forced input of an old file": graph({1: ("Number", {}, [4]), 2: ("Add", {"a": "1.0"}, [9, 8, 7])}),
    "forced input of a new file": graph({1: ("Number", {}, [4]), 2: ("Add", {"a": "1.0"}, [8, 7])}),
    "converted widget, linked": graph({1: ("Number", {}, [4]), 2: ("Add", {"a": "1.0", "c": "1.0"}, [8, 7])}),
    "primitive": graph({1: ("PrimitiveNode", {}, [42, "fixed"]), 2: ("Number", {"value": "1.0"}, [1])}),
    "muted primitive": graph(
        {1: ("PrimitiveNode", {}, [42, "fixed"], {"mode": 2}), 2: ("Number", {"value": "1.0"}, [1])}
    ),
    "primitive behind a reroute": graph(
        {1: ("PrimitiveNode", {}, [42, "fixed"]), 3: ("Reroute", {"": "1.0"}, []), 2: ("Number", {"value": "3.0"}, [1])}
    ),
    "reroutes": graph(
        {
            1: ("Number", {}, [4]),
            3: ("Reroute", {"": "1.0"}, []),
            5: ("Reroute", {"": "3.0"}, []),
            2: ("Show", {"value": "5.0"}, []),
        }
    ),
    "muted reroute": graph(
        {1: ("Number", {}, [4]), 3: ("Reroute", {"": "1.0"}, [], {"mode": 2}), 2: ("Show", {"value": "3.0"}, [])}
    ),
    "bypassed reroute": graph(
        {1: ("Number", {}, [4]), 3: ("Reroute", {"": "1.0"}, [], {"mode": 4}), 2: ("Show", {"value": "3.0"}, [])}
    ),
    "muted origin": graph({1: ("Number", {}, [4], {"mode": 2}), 2: ("Show", {"value": "1.0"}, [])}),
    "muted origin of a converted widget": graph(
        {1: ("Number", {}, [4], {"mode": 2}), 2: ("Number", {"value": "1.0"}, [6])}
    ),
    "muted behind a bypassed": graph(
        {
            1: ("Picture", {}, ["a.png"], {"mode": 2}),
            3: ("Blend", {"one": "1.0"}, [], {"mode": 4}),
            4: ("Save", {"images": "3.0"}, []),
        }
    ),
    "bypass, the same place": _bypass("Blend", ONE),
    "bypass, the same place unlinked": _bypass("Blend", TWO),
    "bypass, no such place": _bypass("Blend", {"mask": "1.1"}, 1, ("Save", "mask")),
    "bypass, another place": _bypass("Blend", ONE, 1, ("Save", "mask")),
    "bypass, the first that fits": _bypass("Either", {"mask": "1.1", "any": "2.0"}),
    "bypass to anything": _bypass("Blend", ONE, 1, ("ShowAny", "value")),
    "bypass of an open output": _bypass("Anything", {"x": "1.1", "y": "2.0"}),
    "bypass over bypass": graph(
        {
            **_pictures(),
            3: ("Anything", {"x": "2.1", "y": "1.0"}, [], {"mode": 4}),
            5: ("Either", {"any": "3.0"}, [], {"mode": 4}),
            4: ("Save", {"images": "5.0"}, []),
        }
    ),
    "bypass of a class with widgets": graph(
        {
            1: ("Number", {}, [4]),
            2: ("Add", {"a": "1.0", "b": "1.0"}, [3, 3], {"mode": 4}),
            3: ("Show", {"value": "2.0"}, []),
        }
    ),
    "names from other nodes' widgets": graph(
        {
            1: ("Number", {}, [4], {"properties": {"Node name for S&R": "Count"}}),
            2: ("Text", {}, ["a/b:c"], {"title": "Words"}),
            3: ("SaveLatent", {"samples": "1.0"}, ["%Count.value%_%Words.text%_%None.x%_%Count.x%_%width%_50%"]),
            4: ("Noise", {}, [3, "fixed", "soft", 2.5]),
            5: ("SaveLatent", {"samples": "1.0"}, ["%Noise.scale%-%Noise.seed%"]),
            6: ("Text", {}, ["%Count.value%"]),
        }
    ),
    "comments and choices in dynamic prompts": graph(
        {
            1: ("Prompt", {}, ["a {b} \\{c|d\\} /* e */ f // g\nh /* i\nj */ k"]),
            2: ("Prompt", {}, ["{l {m} n|l {m} n} {o|o|{o}} /* p {q r|q r"]),
            3: ("Text", {}, ["{s|t} // u"]),
        }
    ),
    "subgraph, its own values": _sub_case(["outer", 99], [["-1", "text"], ["-1", "seed"]]),
    "subgraph, values in another order": _sub_case([99, "outer"], [["-1", "seed"], ["-1", "text"]]),
    "subgraph, a control among the values": _sub_case(
        [None, "outer", None, 99], [["3", "mode"], ["-1", "text"], ["3", "control_after_generate"], ["-1", "seed"]]
    ),
    "subgraph, nulls": _sub_case([None, None], [["-1", "text"], ["-1", "seed"]]),
    "subgraph, no values": _sub_case([], [["-1", "text"], ["-1", "seed"]]),
    "subgraph of an older frontend": _sub_case(["outer", 99]),
    "subgraph of an older frontend, one value": _sub_case(["outer"]),
    "subgraph, one widget shown": _sub_case(["outer"], [["-1", "text"]]),
    "subgraph, only the second shown": _sub_case([99], [["-1", "seed"]]),
    "subgraph, twice": _two_instances(),
    "subgraph, muted": _sub_case(["outer", 99], mode=2),
    "subgraph, bypassed": _inner_mode("Save", 0, 4),
    "subgraph, muted with an output inside": _inner_mode("Save", 0, 2),
    "subgraph, a muted node inside": _inner_mode("Save", 2),
    "subgraph, a bypassed node inside": _inner_mode("Save", 4),
    "subgraph, linked": graph(
        {1: ("Text", {}, ["linked"]), 6: (SUB, {"text": "1.0"}, ["outer", 99]), 7: ("Show", {"value": "6.0"}, [])},
        _text_sub(),
    ),
    "subgraph, fed by a primitive": graph(
        {
            1: ("PrimitiveNode", {}, [42, "fixed"]),
            6: (SUB, {"seed": "1.0"}, ["outer", 99]),
            7: ("Show", {"value": "6.0"}, []),
        },
        _text_sub(),
    ),
    "subgraph, two users fed by a primitive": graph(
        {
            1: ("PrimitiveNode", {}, ["typed", "fixed"]),
            6: (SUB, {"text": "1.0"}, ["outer", 99]),
            7: ("Show", {"value": "6.0"}, []),
        },
        _text_sub(),
    ),
    "subgraph, fed by a muted node": graph(
        {
            1: ("Text", {}, ["x"], {"mode": 2}),
            6: (SUB, {"text": "1.0"}, ["outer", 9]),
            7: ("Show", {"value": "6.0"}, []),
        },
        _text_sub(),
    ),
    "subgraph with a primitive inside": graph(
        {6: (SUB, {}, []), 7: ("Show", {"value": "6.0"}, [])},
        subgraph(
            SUB,
            {1: ("PrimitiveNode", {}, [42, "fixed"]), 2: ("Number", {"value": "1.0"}, [1])},
            [],
            [("out", "INT", "2.0")],
        ),
    ),
    "subgraph with reroutes inside": graph(
        {1: ("Number", {}, [4]), 6: (SUB, {"x": "1.0"}, []), 7: ("Show", {"value": "6.0"}, [])},
        subgraph(
            SUB,
            {2: ("Reroute", {"": "-10.0"}, []), 3: ("Add", {"a": "2.0"}, [5, 6]), 4: ("Reroute", {"": "3.0"}, [])},
            [("x", "INT")],
            [("out", "INT", "4.0")],
        ),
    ),
    "nested, all values": _nested(["outer"], ["middle", 77], [["-1", "words"]], [["-1", "text"], ["-1", "seed"]]),
    "nested, no outer value": _nested([], ["middle", 77], [["-1", "words"]], [["-1", "text"], ["-1", "seed"]]),
    "nested, no values": _nested([], [], None, None),
    "nested, no inner value": _nested(["outer"], [], [["-1", "words"]], [["-1", "text"]]),
}
