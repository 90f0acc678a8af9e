"""SaveImage and PreviewImage as the editor has them: same names, same metadata, values truncated to 8 bit."""

import secrets
import string
from pathlib import Path

from ..files import (
    file_entry,
    graph_metadata,
    move_to_free_number,
    saving_place,
    temporary_file,
    validate_prefix,
)
from ..host import current_host


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


def _write_png(folder: Path, stem: str, counter: int, image, texts: dict[str, str], compress_level: int) -> Path:
    """Write one picture under the first free number from `counter` on, and return its path."""
    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    # Truncated, not rounded: the editor does, and the two must write the same file.
    pixels = np.clip(255.0 * image.cpu().numpy(), 0, 255).astype(np.uint8)
    with temporary_file(folder, stem) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info, compress_level=compress_level)
        return move_to_free_number(temporary, folder, stem, counter)
