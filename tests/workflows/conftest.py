"""A toy pack with one node for each way of declaring an input, and helpers that write graphs of it."""

import json

import pytest

from comfyui_unclip.tests.workflows.painting import Painting


class Number:
    RETURN_TYPES = ("INT",)
    FUNCTION = "go"
    runs = 0

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"default": 1, "min": 0, "max": 10})}}

    def go(self, value):
        type(self).runs += 1
        return (value,)


class Noise:
    """`seed` has the editor's control widget after it, `mode` nothing."""

    RETURN_TYPES = ("INT", "STRING")
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1}),
                "mode": (["soft", "hard"],),
                "scale": ("FLOAT", {"default": 1.5, "min": 0.0, "max": 2.0}),
            },
            "optional": {"on": ("BOOLEAN", {"default": False}), "extra": ("THING",)},
        }

    def go(self, seed, mode, scale, on=False, extra=None):
        return (seed, f"{mode} {scale} {on} {extra}")


class Add:
    RETURN_TYPES = ("INT",)
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": ("INT", {"forceInput": True}), "b": ("INT", {"default": 5})}}

    def go(self, a, b, **more):
        return (a + b + sum(more.values()),)


class Words:
    """Checks its own text."""

    TITLE = "Words"
    RETURN_TYPES = ("STRING",)
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"multiline": True})}}

    @classmethod
    def VALIDATE_INPUTS(cls, text=None):
        return "is empty; write something" if text is not None and not text.strip() else True

    def go(self, text):
        return (text,)


class Show:
    OUTPUT_NODE = True
    RETURN_TYPES = ()
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"value": ("*",)},
            "hidden": {"prompt": "PROMPT", "extra": "EXTRA_PNGINFO", "me": "UNIQUE_ID"},
        }

    def go(self, value, prompt=None, extra=None, me=None):
        return {"ui": {"value": [value], "me": [me], "prompt": [prompt], "extra": [extra]}}


class Fails(Number):
    def go(self, value):
        raise ValueError(f"{value} is\nunlucky")


@pytest.fixture
def classes():
    """The toy pack by id. Node classes are fresh, so their counters start at 0."""
    return {cls.__name__: type(cls.__name__, (cls,), {}) for cls in (Number, Noise, Add, Words, Show, Fails)}


@pytest.fixture
def api():
    """api(id=("Class", {inputs}[, title]), ...) -> an API prompt. Ids are given as n1, n2, ..."""

    def make(**nodes):
        return {
            name[1:]: {
                "class_type": entry[0],
                "inputs": entry[1],
                **({"_meta": {"title": entry[2]}} if len(entry) > 2 else {}),
            }
            for name, entry in nodes.items()
        }

    return make


@pytest.fixture
def ui():
    """ui(nodes, links) -> a saved graph. nodes: {id: (type, [(input, type)], [output types], values, extra)};
    links: [(origin, slot, target, input name)]."""

    def make(nodes, links=()):
        data = {"nodes": [], "links": [], "version": 0.4}
        for node_id, (kind, inputs, outputs, values, *extra) in nodes.items():
            data["nodes"].append(
                {
                    "id": node_id,
                    "type": kind,
                    "mode": 0,
                    "inputs": [{"name": name, "type": type_, "link": None} for name, type_ in inputs],
                    "outputs": [{"name": type_, "type": type_, "links": []} for type_ in outputs],
                    "widgets_values": values,
                    **(extra[0] if extra else {}),
                }
            )
        by_id = {node["id"]: node for node in data["nodes"]}
        for number, (origin, slot, target, name) in enumerate(links, 1):
            entry = next(entry for entry in by_id[target]["inputs"] if entry["name"] == name)
            entry["link"] = number
            by_id[origin]["outputs"][slot]["links"].append(number)
            data["links"].append([number, origin, slot, target, 0, entry["type"]])
        return data

    return make


@pytest.fixture
def save(tmp_path):
    """save(data) -> the path of a workflow file."""

    def write(data, name="graph.json"):
        path = tmp_path / name
        path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
        return path

    return write


@pytest.fixture
def paint(tmp_path, capsys):
    """A graph of paint_pack.py in tmp_path, and the command line on it (painting.py)."""
    return Painting(tmp_path, capsys)
