"""The editor's own nodes that a headless run needs, under the editor's names. Never registered inside ComfyUI.

Reroute, PrimitiveNode, Note and MarkdownNote live in the editor's page alone; workflows/document/ resolves them.
"""

from .pictures_in import LoadImage, LoadImageMask
from .pictures_out import PreviewImage, SaveImage
from .primitives import PrimitiveBoolean, PrimitiveFloat, PrimitiveInt, PrimitiveString, PrimitiveStringMultiline
from .scaling import ImageBatch, ImageScale

_CLASSES = (
    LoadImage,
    LoadImageMask,
    SaveImage,
    PreviewImage,
    ImageScale,
    ImageBatch,
    PrimitiveInt,
    PrimitiveFloat,
    PrimitiveString,
    PrimitiveStringMultiline,
    PrimitiveBoolean,
)

BUILTIN_CLASS_MAPPINGS = {node.__name__: node for node in _CLASSES}
