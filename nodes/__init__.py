"""The pack's nodes: thin V1 classes over unclip_core, one file per theme. Ids are frozen, inputs are append-only."""

from .decoder import UnCLIPDecoderSample
from .loader import UnCLIPLoader
from .prior import UnCLIPDiffusionPrior
from .text import UnCLIPTextEncode
from .upsample import UnCLIPUpsample256, UnCLIPUpsample1024

_CLASSES = (
    UnCLIPLoader,
    UnCLIPTextEncode,
    UnCLIPDiffusionPrior,
    UnCLIPDecoderSample,
    UnCLIPUpsample256,
    UnCLIPUpsample1024,
)

NODE_CLASS_MAPPINGS = {node.__name__: node for node in _CLASSES}
NODE_DISPLAY_NAME_MAPPINGS = {node.__name__: node.TITLE for node in _CLASSES}
