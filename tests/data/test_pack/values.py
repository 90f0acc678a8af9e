"""Nodes of one value: coercion, ranges, checks of their own, hidden inputs, caching, failure."""

from .text import joined


class Label:
    """Every kind of widget, shown as the node got it."""

    RETURN_TYPES = ("STRING", "INT", "FLOAT")
    FUNCTION = "label"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "text": ("STRING", {"default": "x"}),
                "number": ("INT", {"default": 1, "min": -5, "max": 5}),
                "scale": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 2.0}),
                "on": ("BOOLEAN", {"default": False}),
                "kind": (["soft", "hard"],),
            },
            "optional": {"more": ("STRING", {"forceInput": True})},
        }

    def label(self, text, number, scale, on, kind, more="none"):
        return (joined(text, number, scale, on, kind, more), number, scale)


class Checked:
    """Refuses odd numbers; naming `number` switches its range off."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("INT", {"min": 0, "max": 10}), "other": ("INT", {"min": 0, "max": 10})}}

    @classmethod
    def VALIDATE_INPUTS(cls, number):
        return True if number is None or number % 2 == 0 else f"{number} is odd"

    def go(self, number, other):
        return (number + other,)


class Counted:
    """Counts its own calls; IS_CHANGED is its `tag`."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "go"

    def __init__(self):
        self.calls = 0

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"tag": ("STRING", {"default": ""})}, "optional": {"after": ("INT", {"forceInput": True})}}

    @classmethod
    def IS_CHANGED(cls, tag, after=None):
        return float("nan") if tag == "always" else tag

    def go(self, tag, after=0):
        self.calls += 1
        return (self.calls,)


class Total:
    """Adds all numbers that are linked to it, declared or not."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"first": ("INT", {"forceInput": True})}}

    def go(self, first, **more):
        return (first + sum(more.values()),)


class Hidden:
    """The hidden inputs as text."""

    RETURN_TYPES = ("STRING",)
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}, "hidden": {"me": "UNIQUE_ID", "prompt": "PROMPT", "info": "EXTRA_PNGINFO"}}

    def go(self, me, prompt, info):
        return (joined(me, sorted(prompt), info),)


class FailsOn:
    """Fails on one number."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("INT", {"default": 0}), "bad": ("INT", {"default": 13})}}

    def go(self, number, bad):
        if number == bad:
            raise ValueError(f"{number} is bad luck")
        return (number,)


class Report:
    """Shows what comes in, as text."""

    RETURN_TYPES = ()
    FUNCTION = "go"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("STRING,INT,FLOAT", {"forceInput": True})}}

    def go(self, value):
        return {"ui": {"text": [repr(value)]}}
