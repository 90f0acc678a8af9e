"""The editor's value nodes: one widget, one output."""

_INT_LIMIT = 0x7FFFFFFFFFFFFFFF


class _Primitive:
    CATEGORY = "utils/primitive"
    FUNCTION = "execute"

    def execute(self, value):
        return (value,)


class PrimitiveInt(_Primitive):
    """A whole number."""

    TITLE = "Int"
    RETURN_TYPES = ("INT",)

    @classmethod
    def INPUT_TYPES(cls):
        options = {"default": 0, "min": -_INT_LIMIT, "max": _INT_LIMIT, "control_after_generate": True}
        return {"required": {"value": ("INT", options)}}


class PrimitiveFloat(_Primitive):
    """A number."""

    TITLE = "Float"
    RETURN_TYPES = ("FLOAT",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("FLOAT", {"default": 0.0, "min": -_INT_LIMIT, "max": _INT_LIMIT})}}


class PrimitiveString(_Primitive):
    """A line of text."""

    TITLE = "String"
    RETURN_TYPES = ("STRING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("STRING", {"default": ""})}}


class PrimitiveStringMultiline(_Primitive):
    """Text of several lines."""

    TITLE = "String (Multiline)"
    RETURN_TYPES = ("STRING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("STRING", {"default": "", "multiline": True})}}


class PrimitiveBoolean(_Primitive):
    """On or off."""

    TITLE = "Boolean"
    RETURN_TYPES = ("BOOLEAN",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("BOOLEAN", {"default": False})}}
