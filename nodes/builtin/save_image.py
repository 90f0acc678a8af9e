"""What the editor's own nodes save and preview: same names, same metadata, values truncated to 8 bit."""

import secrets
import string
from pathlib import Path
from types import MappingProxyType

from ..animation import graph_exif
from ..files import (
    file_entry,
    graph_metadata,
    move_to_free_number,
    saving_place,
    temporary_file,
    validate_prefix,
)
from ..host import current_host
from .mask_pictures import grey_pictures


class SaveImage:
    """Pictures as PNG in the output folder, with the graph inside, so that dropping one on the editor restores it."""

    TITLE = "Save Image"
    CATEGORY = "image"
    FUNCTION = "save_images"
    OUTPUT_NODE = True
    RETURN_TYPES = ()
    FOLDER = "output"
    COMPRESS_LEVEL = 4

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"images": ("IMAGE",), "filename_prefix": ("STRING", {"default": "ComfyUI"})},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix=None):
        return validate_prefix(filename_prefix)

    def save_images(self, images, filename_prefix="ComfyUI", prompt=None, extra_pnginfo=None):
        root = current_host().folder(self.FOLDER)
        folder, stem, counter = saving_place(filename_prefix, root, images[0].shape[1], images[0].shape[0])
        texts, results = graph_metadata(prompt, extra_pnginfo), []
        for number, image in enumerate(images):
            own = stem.replace("%batch_num%", str(number))
            path = _write_png(folder, own, counter + number, image, texts, self.COMPRESS_LEVEL)
            results.append(file_entry(path, root, self.FOLDER))
        return {"ui": {"images": results}}


class PreviewImage(SaveImage):
    """The same into the temporary folder, under a random name."""

    TITLE = "Preview Image"
    FOLDER = "temp"
    COMPRESS_LEVEL = 1

    def __init__(self):
        self._suffix = "_temp_" + "".join(secrets.choice(string.ascii_lowercase) for _ in range(5))

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}, "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}}

    def save_images(self, images, prompt=None, extra_pnginfo=None):
        return super().save_images(images, "ComfyUI" + self._suffix, prompt, extra_pnginfo)


class MaskPreview(PreviewImage):
    """A mask as grey pictures in the temporary folder."""

    TITLE = "Preview Mask"
    CATEGORY = "mask"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"mask": ("MASK",)}, "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}}

    def save_images(self, mask, prompt=None, extra_pnginfo=None):
        shown = super().save_images(grey_pictures(mask), prompt, extra_pnginfo)["ui"]
        return {"ui": {**shown, "animated": (False,)}}


class SaveAnimatedWEBP:
    """Pictures as the frames of one WebP in the output folder, with the graph inside."""

    TITLE = "SaveAnimatedWEBP"
    CATEGORY = "image/animation"
    FUNCTION = "save_images"
    OUTPUT_NODE = True
    RETURN_TYPES = ()
    METHODS = MappingProxyType({"default": 4, "fastest": 0, "slowest": 6})

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "images": ("IMAGE",),
                "filename_prefix": ("STRING", {"default": "ComfyUI"}),
                "fps": ("FLOAT", {"default": 6.0, "min": 0.01, "max": 1000.0, "step": 0.01}),
                "lossless": ("BOOLEAN", {"default": True}),
                "quality": ("INT", {"default": 80, "min": 0, "max": 100}),
                "method": (list(cls.METHODS),),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix=None):
        return validate_prefix(filename_prefix)

    def save_images(
        self, images, fps, lossless, quality, method, filename_prefix="ComfyUI", prompt=None, extra_pnginfo=None
    ):
        from PIL import Image

        root = current_host().folder("output")
        folder, stem, counter = saving_place(filename_prefix, root, images.shape[2], images.shape[1])
        first, *others = [Image.fromarray(_bytes(image)) for image in images]
        with temporary_file(folder, stem) as temporary:
            first.save(
                temporary,
                format="WEBP",
                save_all=True,
                append_images=others,
                duration=int(1000.0 / fps),
                lossless=lossless,
                quality=quality,
                method=self.METHODS[method],
                exif=graph_exif(graph_metadata(prompt, extra_pnginfo)),
            )
            path = move_to_free_number(temporary, folder, stem, counter, ending="_.webp")
        shown = {"images": [file_entry(path, root, "output")]}
        return {"ui": shown | ({"animated": (True,)} if others else {})}


def _bytes(image):
    """A picture's values as 8 bit. Truncated, not rounded: the editor does, and the two must write the same file."""
    import numpy as np

    return np.clip(255.0 * image.cpu().numpy(), 0, 255).astype(np.uint8)


def _write_png(folder: Path, stem: str, counter: int, image, texts: dict[str, str], compress_level: int) -> Path:
    """Write one picture under the first free number from `counter` on, and return its path."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    with temporary_file(folder, stem) as temporary:
        Image.fromarray(_bytes(image)).save(temporary, format="PNG", pnginfo=info, compress_level=compress_level)
        return move_to_free_number(temporary, folder, stem, counter)
