"""Texts shown and joined, as the editor's own nodes do it."""

import json


class PreviewAny:
    """Any value as text on the node: JSON where it can be written so, else as Python shows it."""

    TITLE = "Preview as Text"
    CATEGORY = "utils"
    FUNCTION = "execute"
    OUTPUT_NODE = True
    RETURN_TYPES = ()

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"source": ("*", {})}}

    def execute(self, source=None):
        return {"ui": {"text": (_shown(source),)}}


def _shown(value) -> str:
    if value is None or isinstance(value, str | bool | int | float):
        return str(value)
    try:
        return json.dumps(value, indent=4)
    except (TypeError, ValueError, RecursionError):
        return str(value)


class StringConcatenate:
    """Two texts with a third between them."""

    TITLE = "Concatenate"
    CATEGORY = "utils/string"
    FUNCTION = "execute"
    RETURN_TYPES = ("STRING",)

    @classmethod
    def INPUT_TYPES(cls):
        text = ("STRING", {"multiline": True})
        return {"required": {"string_a": text, "string_b": text, "delimiter": ("STRING", {"default": ""})}}

    def execute(self, string_a, string_b, delimiter):
        return (delimiter.join((string_a, string_b)),)
