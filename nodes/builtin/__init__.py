"""The editor's own nodes that a headless run needs, under the editor's names. Never registered inside ComfyUI.

Reroute, PrimitiveNode, Note and MarkdownNote live in the editor's page alone; workflows/document/ resolves them.
"""

from .batches import BatchImagesNode, ImageBatch, ImageFromBatch, RepeatImageBatch
from .blending import ImageBlend, ImageCompositeMasked, ImageInvert
from .choices import ComfySwitchNode, CustomCombo
from .filters import ImageBlur, ImageSharpen
from .load_image import LoadImage, LoadImageMask
from .mask_pictures import (
    ImageColorToMask,
    ImageToMask,
    JoinImageWithAlpha,
    MaskToImage,
    SplitImageWithAlpha,
)
from .masks import CropMask, FeatherMask, GrowMask, InvertMask, MaskComposite, SolidMask, ThresholdMask
from .primitives import PrimitiveBoolean, PrimitiveFloat, PrimitiveInt, PrimitiveString, PrimitiveStringMultiline
from .save_image import MaskPreview, PreviewImage, SaveAnimatedWEBP, SaveImage
from .scaling import ImageScale, ImageScaleBy, ImageScaleToMaxDimension, ImageScaleToTotalPixels
from .stitching import ImageStitch, ResizeAndPadImage
from .texts import PreviewAny, StringConcatenate
from .transforms import EmptyImage, GetImageSize, ImageCrop, ImageFlip, ImagePadForOutpaint, ImageRotate

_CLASSES = (
    LoadImage,
    LoadImageMask,
    SaveImage,
    PreviewImage,
    SaveAnimatedWEBP,
    ImageScale,
    ImageScaleBy,
    ImageScaleToTotalPixels,
    ImageScaleToMaxDimension,
    ImageCrop,
    ImageFlip,
    ImageRotate,
    ImageInvert,
    ImagePadForOutpaint,
    ImageStitch,
    ResizeAndPadImage,
    ImageBlur,
    ImageSharpen,
    ImageBlend,
    ImageCompositeMasked,
    EmptyImage,
    GetImageSize,
    ImageBatch,
    BatchImagesNode,
    ImageFromBatch,
    RepeatImageBatch,
    MaskToImage,
    ImageToMask,
    ImageColorToMask,
    SplitImageWithAlpha,
    JoinImageWithAlpha,
    MaskPreview,
    SolidMask,
    InvertMask,
    GrowMask,
    FeatherMask,
    ThresholdMask,
    CropMask,
    MaskComposite,
    PrimitiveInt,
    PrimitiveFloat,
    PrimitiveString,
    PrimitiveStringMultiline,
    PrimitiveBoolean,
    ComfySwitchNode,
    CustomCombo,
    StringConcatenate,
    PreviewAny,
)

BUILTIN_CLASS_MAPPINGS = {node.__name__: node for node in _CLASSES}
